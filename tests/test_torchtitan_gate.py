"""Each patch of the gate is still needed; and there is no other way in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import muloco
from muloco import _torchtitan

PACKAGE = Path(muloco.__file__).parent


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


def test_torch_still_lacks_set_timeout() -> None:
    in_fresh_process("import torch.distributed as d; assert not hasattr(d, 'set_timeout')")


@pytest.mark.skipif(torch.accelerator.is_available(), reason="about machines without an accelerator")
def test_torchtitan_still_takes_cuda_for_granted() -> None:
    in_fresh_process("import torchtitan.tools.utils as u; assert u.device_type == 'cuda'")
    assert _torchtitan.device_type() == "cpu"
    assert _torchtitan.device_module().memory_stats()["reserved_bytes.all.peak"] > 1e6


def test_gloo_still_refuses_a_premultiplied_sum() -> None:
    """Why the model sums gradients plainly on CPU (muloco/model/llama.py)."""
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
