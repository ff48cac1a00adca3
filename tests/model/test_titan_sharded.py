"""torchtitan's models on two ranks, in real gloo processes: the numbers of one process."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from muloco.model.architecture import register
from muloco.model.flavors import flavor
from muloco.sharding import gather

from ..covering import only
from .layouts import Layout, build, build_whole, check_gradients
from .small_titan import DEBUG_SIZES, small_record

LAYOUTS: list[Layout] = [(2, 1, 1), (1, 1, 2)]


def check(rank: int, store: str, kind: str) -> None:
    register(small_record())
    for layout in LAYOUTS:
        if layout[2] > 1 and flavor(f"small/{kind}").undivided:
            continue
        name = f"{store}-{'-'.join(map(str, layout))}"
        dist.init_process_group("gloo", init_method=name, rank=rank, world_size=2, timeout=timedelta(seconds=60))
        sharded, whole = build(layout, flavor=f"small/{kind}"), build_whole(f"small/{kind}")
        for name, parameter in sharded.named_parameters():
            assert torch.equal(gather(parameter), whole.get_parameter(name)), f"{layout}: {name} starts otherwise"
        check_gradients(layout, sharded, whole)
        dist.destroy_process_group()


@pytest.mark.parametrize("kind", only(["qwen3_moe"], DEBUG_SIZES))
def test_two_ranks_are_one_process(kind: str, spawn_ranks) -> None:
    """Start to the bit, and gradients, sharded by FSDP2 and divided by tensor parallelism."""
    spawn_ranks(check, 2, kind)
