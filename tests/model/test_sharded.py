"""The model on every layout of ranks, in real gloo processes: the numbers of one process."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn

from muloco._torchtitan import FullAC, SelectiveAC
from muloco.model.flavors import flavor
from muloco.outer.loop.digest import digest
from muloco.settings.optimizer import Optimizer
from muloco.sharding import gather, local, shard_like, wrap
from muloco.training.finite import GradientWatch, NonFiniteGradient
from muloco.training.optimizers import inner_optimizers

from .layouts import Layout, assert_close, build, build_whole, check_gradients

LAYOUTS: list[Layout] = [
    (1, 1, 1),
    (2, 1, 1),
    (1, 2, 1),
    (1, 1, 2),
    (4, 1, 1),
    (2, 2, 1),
    (2, 1, 2),
    (1, 2, 2),
]
CHECKPOINTING = {(1, 1, 1): SelectiveAC.Config(), (2, 1, 2): FullAC.Config()}


def check(rank: int, store: str) -> None:
    for layout in LAYOUTS:
        world = layout[0] * layout[1] * layout[2]
        if rank < world:
            name = f"{store}-{'-'.join(map(str, layout))}"
            dist.init_process_group(
                "gloo", init_method=name, rank=rank, world_size=world, timeout=timedelta(seconds=60)
            )
            check_layout(layout, Path(name.removeprefix("file://") + "-checkpoint"))
            dist.destroy_process_group()


def check_layout(layout: Layout, folder: Path) -> None:
    sharded, whole = build(layout, checkpointing=CHECKPOINTING.get(layout)), build_whole()
    ours, theirs = dict(sharded.named_parameters()), dict(whole.named_parameters())
    check_start(layout, ours, theirs)
    check_gradients(layout, sharded, whole)
    check_same_gradients(layout, sharded)
    check_watch(layout, ours)
    check_step(layout, sharded, whole)
    check_checkpoint(layout, ours, folder)


def check_start(layout: Layout, ours: dict[str, nn.Parameter], theirs: dict[str, nn.Parameter]) -> None:
    assert list(ours) == list(theirs)
    for name in theirs:
        assert torch.equal(gather(ours[name]), theirs[name]), f"{layout}: {name} starts otherwise"
    held = torch.tensor(sum(local(parameter).numel() for parameter in ours.values()))
    dist.all_reduce(held)
    total = sum(parameter.numel() for parameter in theirs.values())
    assert held.item() == pytest.approx(layout[1] * total, rel=0.01), f"{layout}: more is replicated than the norms"


def check_same_gradients(layout: Layout, sharded: nn.Module) -> None:
    """Ranks that hold the same norms have to move them alike: full gradients are bit-equal everywhere."""
    own = digest(gather(parameter.grad) for parameter in sharded.parameters())
    lowest, highest = own.clone(), own.clone()
    dist.all_reduce(lowest, dist.ReduceOp.MIN)
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    assert lowest == highest, f"{layout}: ranks see different gradients"


def check_watch(layout: Layout, ours: dict[str, nn.Parameter]) -> None:
    """A NaN in the part of one rank stops all ranks, with the same words."""
    watch = GradientWatch(ours)
    watch.observe(1)
    watch.check(1)
    if dist.get_rank() == dist.get_world_size() - 1:
        local(ours["layers.1.attention.wo.weight"].grad).view(-1)[-1] = float("nan")
    watch.observe(2)
    with pytest.raises(NonFiniteGradient) as found:
        watch.check(3)
    expected = "NaN or Inf in the gradient of layers.1.attention.wo.weight at inner step 2, seen at step 3"
    assert str(found.value) == expected, f"{layout}: {found.value}"


def check_step(layout: Layout, sharded: nn.Module, whole: nn.Module) -> None:
    """One step of the inner optimizers: AdamW divides by the gradient's size, so both get the same gradients."""
    for parameter, other in zip(whole.parameters(), sharded.parameters(), strict=True):
        local(other.grad).copy_(shard_like(parameter.grad, other))
    before = {name: parameter.detach().clone() for name, parameter in whole.named_parameters()}
    chosen = Optimizer(weight_decay=0.1)
    chosen.complete({})
    config = inner_optimizers(chosen, flavor("tiny").record.roles)
    for model in (whole, sharded):
        optimizers = config.build(model_parts=[model])
        assert sum(len(g["params"]) for o in optimizers for g in o.param_groups if g["algorithm"] == "muon") == 2 * 7
        optimizers.step()
    for (name, parameter), other in zip(whole.named_parameters(), sharded.parameters(), strict=True):
        moved, expected = gather(other) - before[name], parameter.detach() - before[name]
        assert expected.abs().max() > 1e-3
        assert_close(moved, expected, 2e-2, f"{layout}: step of {name}")  # Muon's products may be bf16


def check_checkpoint(layout: Layout, parameters: dict[str, nn.Parameter], folder: Path) -> None:
    """What the outer loop keeps as plain parts comes back to the same bits, and reads as whole tensors by itself."""
    parts = {name: local(parameter).detach().clone() * 3 for name, parameter in parameters.items()}
    full = {name: gather(parameter).detach() * 3 for name, parameter in parameters.items()}
    dcp.save({n: wrap(part, like=parameters[n]) for n, part in parts.items()}, checkpoint_id=folder)
    empty = {name: torch.zeros_like(part) for name, part in parts.items()}
    dcp.load({n: wrap(part, like=parameters[n]) for n, part in empty.items()}, checkpoint_id=folder)
    alone = {name: torch.zeros_like(tensor) for name, tensor in full.items()}
    dcp.load(alone, checkpoint_id=folder, no_dist=True)
    for name in parts:
        assert torch.equal(empty[name], parts[name]) and torch.equal(alone[name], full[name]), f"{layout}: {name}"


def test_every_layout_is_one_process(spawn_ranks) -> None:
    """Start to the bit, gradients, a step of Muon and AdamW, a checkpoint; some of it with activation checkpointing."""
    spawn_ranks(check, 4)
