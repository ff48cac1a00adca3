"""Muon on FSDP2's DTensors in real gloo processes: the numbers of an unsharded run, to rounding."""

import importlib
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor

from muloco.optim import MuLoCo1, Muon
from muloco.sharding import gather, local

OPTIONS = [
    {"lr": 0.05},
    {"lr": 0.05, "nesterov": True, "weight_decay": 0.3, "adjust_lr": "rms_norm", "orthogonalization": "quintic"},
]


def build():
    """Rows 3, 1, 7, 7, 7: uneven over two ranks and three, and one row leaves ranks empty. The last two are alike."""
    torch.manual_seed(0)
    widths = [6, 3, 1, 7, 7, 7]
    return torch.nn.Sequential(
        *(torch.nn.Linear(i, o, bias=False) for i, o in zip(widths, widths[1:], strict=False)), torch.nn.Tanh()
    )


def check(rank, store, world):
    importlib.import_module("muloco.optim.orthogonalize")._fast_dtype = lambda device_type: torch.float32
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    mesh = init_device_mesh("cpu", (world,))
    for options in OPTIONS:
        check_fully_sharded(mesh, options)
    check_replicated_with_pending_gradient(mesh)
    check_outer_step(mesh)
    dist.destroy_process_group()


def check_fully_sharded(mesh, options):
    plain, sharded = build(), build()
    for layer in sharded:
        fully_shard(layer, mesh=mesh)
    rows = [local(param).shape[0] for param in sharded.parameters()]
    assert rows[1] == (1 if mesh.get_rank() == 0 else 0)

    optimizers = [Muon(model.parameters(), **options) for model in (plain, sharded)]
    for step in range(3):
        batch = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        for model, optimizer in zip((plain, sharded), optimizers, strict=True):
            optimizer.zero_grad()
            model(batch).square().sum().backward()
            optimizer.step()

    moved = [not torch.equal(a, b) for a, b in zip(plain.parameters(), build().parameters(), strict=True)]
    assert all(moved)
    for a, b in zip(plain.parameters(), sharded.parameters(), strict=True):
        torch.testing.assert_close(gather(b), a.detach(), rtol=0, atol=1e-4)
        momentum = optimizers[1].state[b]["momentum_buffer"]
        assert isinstance(momentum, DTensor) and momentum.placements == b.placements
        assert local(momentum).shape == local(b).shape
        torch.testing.assert_close(gather(momentum), optimizers[0].state[a]["momentum_buffer"], rtol=1e-4, atol=1e-4)


def check_replicated_with_pending_gradient(mesh):
    generator = torch.Generator().manual_seed(0)
    start, gradient = torch.randn(4, 3, generator=generator), torch.randn(4, 3, generator=generator)
    plain = torch.nn.Parameter(start.clone())
    plain.grad = gradient * mesh.size()
    replicated = torch.nn.Parameter(distribute_tensor(start, mesh, [Replicate()], src_data_rank=None))
    replicated.grad = DTensor.from_local(gradient, mesh, [Partial()])
    for param in (plain, replicated):
        Muon([param], 0.05, nesterov=True).step()
    torch.testing.assert_close(gather(replicated), plain.detach(), rtol=0, atol=1e-5)


def check_outer_step(mesh):
    plain, sharded = build(), build()
    for layer in sharded:
        fully_shard(layer, mesh=mesh)
    optimizers = [MuLoCo1(model, 0.05, sync_interval=2) for model in (plain, sharded)]
    for step in range(5):
        batch = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        for model, optimizer in zip((plain, sharded), optimizers, strict=True):
            optimizer.zero_grad()
            model(batch).square().sum().backward()
            optimizer.step()
    for a, b in zip(plain.parameters(), sharded.parameters(), strict=True):
        torch.testing.assert_close(gather(b), a.detach(), rtol=0, atol=1e-4)
        for key in ("anchor", "outer_momentum"):
            expected, found = optimizers[0].state[a][key], optimizers[1].state[b][key]
            assert found.placements == b.placements and local(found).shape == local(b).shape
            torch.testing.assert_close(gather(found), expected, rtol=0, atol=1e-4)
    with optimizers[0].anchor_weights(), optimizers[1].anchor_weights():
        for a, b in zip(plain.parameters(), sharded.parameters(), strict=True):
            torch.testing.assert_close(gather(b), a.detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("world", [2, 3])
def test_equals_unsharded(spawn_ranks, world):
    spawn_ranks(check, world, world)
