"""torch.compile on the CPU: the numbers of the model as it is."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from packaging.version import Version
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Shard

from muloco.sharding import gather

from .layouts import Layout, build, build_whole, check_gradients, packed_batch

TORCH = Version(torch.__version__).release
pytestmark = pytest.mark.integration  # compilers take their time


def check(rank: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=200))
    layout: Layout = (1, 1, 2)
    compiled, whole = build(layout, compiled=True), build_whole()
    assert [name for name, _ in compiled.named_parameters()] == [name for name, _ in whole.named_parameters()]
    tokens, positions, _ = packed_batch()
    with torch.no_grad():  # first, as the validation before the first step does
        logits = compiled(tokens, positions, compiled.get_attention_masks(positions))
        expected = whole(tokens, positions, whole.get_attention_masks(positions))
    torch.testing.assert_close(gather(logits), expected, rtol=1e-4, atol=1e-5)
    check_gradients(layout, compiled, whole, compiled=True)
    if TORCH >= (2, 12):  # torch 2.11 does not
        check_that_torch_still_mixes_up_what_it_compiled()
    dist.destroy_process_group()


def check_that_torch_still_mixes_up_what_it_compiled() -> None:
    """Why the embedding's output is copied under tensor parallelism (muloco/model/decoder.py)."""
    mesh = init_device_mesh("cpu", (2,))
    pending = DTensor.from_local(torch.ones(4, 4), mesh, [Partial()])
    double = torch.compile(lambda x: x * 2)
    double(pending.redistribute(placements=[Shard(0)], async_op=True))
    with pytest.raises(AttributeError, match="'Tensor' object has no attribute 'elem'"):
        double(pending.redistribute(placements=[Shard(0)]))


@pytest.mark.full
def test_compiled_layers_give_the_same_loss_and_gradients(
    spawn_ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU's attention and the loss, on two ranks of tensor parallelism, against one rank that compiles nothing."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))  # what is there decides what is mixed up
    spawn_ranks(check, 2)
