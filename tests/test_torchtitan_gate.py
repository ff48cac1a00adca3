"""Each patch of the gate is still needed; and there is no other way in."""

import ast
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from packaging.version import Version

import muloco
from muloco import _torchtitan

PACKAGE = Path(muloco.__file__).parent
TORCH = Version(torch.__version__).release


def modules_imported_by(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def in_fresh_process(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_other_module_imports_torchtitan() -> None:
    for file in PACKAGE.rglob("*.py"):
        if file.name != "_torchtitan.py":
            assert not {m for m in modules_imported_by(file) if m.split(".")[0] == "torchtitan"}, file


def without_mesh_dims() -> None:
    """As in torch 2.11."""
    import torch.distributed.fsdp as fsdp

    if hasattr(fsdp, "DataParallelMeshDims"):
        del fsdp.DataParallelMeshDims


def without_choice_of_blocks() -> None:
    """As in torch 2.11, whose masks always keep full blocks apart. Compiling would take longer than the test."""
    import torch.nn.attention.flex_attention as flex

    real = flex.create_block_mask
    accepted = {"separate_full_blocks": True} if "separate_full_blocks" in inspect.signature(real).parameters else {}

    def create_block_mask(mask_mod, B, H, Q_LEN, KV_LEN, device=None, BLOCK_SIZE=128, _compile=False):
        return real(mask_mod, B, H, Q_LEN, KV_LEN, device=device, BLOCK_SIZE=BLOCK_SIZE, **accepted)

    flex.create_block_mask = create_block_mask
    torch._dynamo.config.disable = True


MASK = """
import torchtitan.models.common.attention as attention
mask = attention.create_attention_mask(
    lambda b, h, q, k: q >= k, 1, None, 256, 256, device="cpu", BLOCK_SIZE=64, separate_full_blocks=True
)
assert mask.full_kv_num_blocks.tolist() == [[[0, 1, 2, 3]]] and mask.kv_num_blocks.tolist() == [[[1, 1, 1, 1]]]
try: attention.create_attention_mask(lambda b, h, q, k: q >= k, 1, None, 8, 8, separate_full_blocks=False)
except NotImplementedError: pass
else: raise SystemExit("a mask of one kind of blocks was asked for, and not made")
"""


@pytest.mark.full
@pytest.mark.parametrize(("lack", "use"), [(without_mesh_dims, ""), (without_choice_of_blocks, MASK)])
def test_what_an_older_torch_lacks_is_provided(lack: Callable[[], None], use: str) -> None:
    code = f"import inspect\nimport torch\n{inspect.getsource(lack)}\n{lack.__name__}()\nimport muloco._torchtitan\n"
    in_fresh_process(code + use)


@pytest.mark.full
def test_torchtitan_still_imports_what_a_worker_does_not_use() -> None:
    """Its own loader of text, the validator's default, can be used all the same."""
    in_fresh_process(
        "import sys, muloco.training.trainer, torch\n"
        "assert 'datasets' not in sys.modules\n"
        "assert 'torch._inductor.compile_fx' not in sys.modules or torch.accelerator.is_available()\n"
        "from torchtitan.components.validate import Validator\n"
        "assert Validator.Config().dataloader.dataset == 'c4_validation'\n"
        "assert 'datasets' in sys.modules\n"
    )


def test_a_lighthouse_imports_no_torch() -> None:
    in_fresh_process(
        "import sys, muloco.outer.wire.lighthouse\nassert 'torch' not in sys.modules\n"
        "import torchft\nassert torchft.Manager"
    )


@pytest.mark.full
def test_torch_still_lacks_set_timeout() -> None:
    in_fresh_process("import torch.distributed as d; assert not hasattr(d, 'set_timeout')")


@pytest.mark.full
def test_a_schedule_of_a_pipeline_still_takes_whole_batches_only() -> None:
    in_fresh_process(
        "import inspect, torch.distributed.pipelining.schedules as s\n"
        "for kind in (s.PipelineScheduleSingle, s.PipelineScheduleMulti):\n"
        "    assert 'arg_mbs' not in inspect.signature(kind.step).parameters"
    )


@pytest.mark.full
@pytest.mark.skipif(torch.accelerator.is_available(), reason="about machines without an accelerator")
def test_torchtitan_still_takes_cuda_for_granted() -> None:
    in_fresh_process("import torchtitan.tools.utils as u; assert u.device_type == 'cuda'")
    assert _torchtitan.device_type() == "cpu"
    assert _torchtitan._utils.device_module.memory_stats()["reserved_bytes.all.peak"] > 1e6


@pytest.mark.full
def test_gloo_still_refuses_a_premultiplied_sum() -> None:
    """Why the model sums gradients plainly on CPU (muloco/model/decoder.py)."""
    in_fresh_process(
        "import torch, torch.distributed as d\n"
        "d.init_process_group('gloo', store=d.HashStore(), rank=0, world_size=1)\n"
        "try: d.all_reduce(torch.ones(1), op=d._make_nccl_premul_sum(2.0))\n"
        "except RuntimeError as e: assert 'PREMUL_SUM' in str(e), e\n"
        "else: raise SystemExit('gloo takes it now')\n"
        "finally: d.destroy_process_group()\n"
    )


@pytest.mark.skipif(torch.accelerator.is_available(), reason="about the CPU")
def test_flex_attention_still_has_no_backward_on_cpu() -> None:
    """Why there is muloco/model/attention.py."""
    from torch.nn.attention.flex_attention import flex_attention

    q = torch.randn(1, 1, 16, 16, requires_grad=True)
    with pytest.raises(NotImplementedError, match="does not support backward on CPU"):
        torch.compile(flex_attention)(q, q, q).sum().backward()


@pytest.mark.full
@pytest.mark.skipif(TORCH < (2, 12), reason="torch 2.11 has nothing to ask it with")
def test_torchtitans_default_backend_still_fails_on_this_torch() -> None:
    """Why titan_config.py says partial_dtensor: spmd_types needs an FSDP2 that takes plain parameters."""
    assert _torchtitan.ParallelismConfig().spmd_backend == "spmd_types"
    in_fresh_process(
        "import torch, torch.distributed as d\n"
        "from torch.distributed.fsdp import DataParallelMeshDims, fully_shard\n"
        "from torch.testing._internal.distributed.fake_pg import FakeStore\n"
        "d.init_process_group('fake', store=FakeStore(), rank=0, world_size=2)\n"
        "mesh = d.device_mesh.init_device_mesh('cpu', (2,), mesh_dim_names=('fsdp',))\n"
        "try: fully_shard(torch.nn.Linear(4, 4), mesh=mesh, dp_mesh_dims=DataParallelMeshDims(shard='fsdp'))\n"
        "except ValueError as e: assert 'all parameters must be DTensors' in str(e), e\n"
        "else: raise SystemExit('FSDP2 takes it now')\n"
        "finally: d.destroy_process_group()\n"
    )
