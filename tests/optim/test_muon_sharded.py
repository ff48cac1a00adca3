"""Muon on DTensors and on copies, in real gloo processes: the numbers of an unsharded run, to rounding; every matrix
orthogonalized once, and no byte sent that need not be."""

import contextlib
import importlib
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

from muloco.optim import MuLoCo1, Muon
from muloco.optim.all_to_all import overlap
from muloco.sharding import axes, copies, gather, local, shard_like

owners = importlib.import_module("muloco.optim.owners")
orthogonalization = importlib.import_module("muloco.optim.newton_schulz")

OPTIONS = [
    {"lr": 0.05},
    {
        "lr": torch.tensor(0.05),
        "nesterov": True,
        "weight_decay": 0.3,
        "cautious_weight_decay": True,
        "adjust_lr": "rms_norm",
        "orthogonalization": "quintic",
    },
]
WIDTHS = [6, 3, 1, 7, 7, 7, 7]
MATRICES = len(WIDTHS) - 1
MESHES = {1: [(1,)], 2: [(2,)], 3: [(3,)], 4: [(4,), (2, 2), (4, 1)]}
"""By world size: FSDP2, HSDP, and copies alone, as the trainer has them."""

SHAPES = [  # and how a tensor of more dimensions is a matrix, and the dimension that is sharded
    ((5, 4), None, 1),
    ((3, 4), None, 0),
    ((3, 5, 4), "stacked", 0),  # each rank has whole matrices
    ((2, 5, 4), "stacked", 1),
    ((2, 5, 4), "stacked", 2),
    ((2, 3, 5, 4), "stacked", 1),
    ((5, 2, 3), "flatten", 0),
    ((5, 2, 3), "flatten", 2),
]


def build():
    """Matrices of 3, 1, 7, 7, 7 and 7 rows, uneven over two ranks and three; one row leaves ranks empty."""
    torch.manual_seed(0)
    layers = [nn.Linear(i, o) for i, o in zip(WIDTHS, WIDTHS[1:], strict=False)]
    return nn.Sequential(*layers, nn.Tanh())


def fully_sharded(mesh):
    model = build()
    for layer in model:
        fully_shard(layer, mesh=mesh)
    return model


def build_optimizer(model, **options):
    """A group for the matrices of every other layer, with a learning rate of its own; biases by Lion."""
    groups = [
        {"params": [layer.weight for layer in model[:-1:2]]},
        {"params": [layer.weight for layer in model[1:-1:2]], "lr": 0.02},
        {"params": [layer.bias for layer in model[:-1]], "algorithm": "lion", "lr_factor": 0.1},
    ]
    return Muon(groups, **options)


def train(model, optimizer, steps):
    """Whole batches on every rank. In step 1 a matrix has no gradient."""
    for step in steps:
        optimizer.zero_grad()
        model(torch.randn(16, 6, generator=torch.Generator().manual_seed(step))).square().sum().backward()
        if step == 1:
            model[3].weight.grad = None
        optimizer.step()


@contextlib.contextmanager
def counted():
    """Of this rank: matrices orthogonalized, messages exchanged, bytes sent to others."""
    found = {"matrices": 0, "messages": 0, "bytes": 0}
    orthogonalize, send = orthogonalization.orthogonal_direction, dist.all_to_all_single

    def counting(matrices, *args, **options):
        found["matrices"] += matrices.shape[:-2].numel()
        return orthogonalize(matrices, *args, **options)

    def counting_bytes(output, input, output_sizes, input_sizes, group, **options):  # noqa: A002 (torch's names)
        assert input.dtype == torch.uint8 and input_sizes[group.rank()] == 0
        found["messages"] += 1
        found["bytes"] += sum(input_sizes)
        return send(output, input, output_sizes, input_sizes, group=group, **options)

    orthogonalization.orthogonal_direction, dist.all_to_all_single = counting, counting_bytes
    try:
        yield found
    finally:
        orthogonalization.orthogonal_direction, dist.all_to_all_single = orthogonalize, send


def total(number):
    tensor = torch.tensor(number)
    dist.all_reduce(tensor)
    return tensor.item()


def assert_close(ours, theirs, atol=1e-4):
    """Parameters or state, sharded and whole."""
    for sharded, whole in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gather(sharded.detach()), whole.detach(), rtol=0, atol=atol)


def check(rank, store):
    orthogonalization._fast_dtype = lambda device_type: torch.float32
    for world, meshes in sorted(MESHES.items(), key=lambda item: item[0] != 2):  # the checkpoint of two first
        if rank >= world:
            continue
        address = f"{store}-{world}"
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world, timeout=timedelta(seconds=60))
        folder = Path(store.removeprefix("file://") + "-checkpoint")
        for shape in meshes:
            mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
            for options, size in zip(OPTIONS, (2**23, 64), strict=True):
                owners.EXCHANGE_BYTES = size
                check_fully_sharded(mesh, options)
            owners.EXCHANGE_BYTES = 2**23
            check_bytes(mesh)
            check_checkpoint(mesh, folder)
        check_copies()
        line = init_device_mesh("cpu", (world,))
        for tensor_shape, layout, dim in SHAPES:
            check_tensor(line, [Shard(dim)], tensor_shape, layout)
            check_tensor(line, [Replicate()], tensor_shape, layout)
        if world == 4:
            square = init_device_mesh("cpu", (2, 2))
            for placements in ([Shard(0), Shard(0)], [Shard(0), Shard(1)], [Shard(1), Replicate()]):
                check_tensor(square, placements, (5, 3), None)
            for placements in ([Shard(1), Shard(0)], [Shard(0), Shard(0)], [Shard(2), Shard(1)]):
                check_tensor(square, placements, (3, 5, 4), "stacked")  # experts over the second axis, or none
            check_strided(square)
        check_pending_gradient(line)
        check_nan(line)
        check_outer_step(line)
        dist.destroy_process_group()


def check_fully_sharded(mesh, options):
    plain, sharded = build(), fully_sharded(mesh)
    rows = local(sharded[1].weight).shape[0]
    assert rows == (1 if mesh.get_local_rank(mesh.ndim - 1) == 0 else 0)
    ours, theirs = build_optimizer(sharded, **options), build_optimizer(plain, **options)
    train(plain, theirs, range(3))
    with counted() as found:
        train(sharded, ours, range(3))
    assert total(found["matrices"]) == 3 * MATRICES - 1
    assert_close(sharded.parameters(), plain.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(plain.parameters(), build().parameters(), strict=True))
    for a, b in zip(plain.parameters(), sharded.parameters(), strict=True):
        for key, value in theirs.state[a].items():
            assert ours.state[b][key].placements == b.placements
            assert local(ours.state[b][key]).shape == local(b).shape
            torch.testing.assert_close(gather(ours.state[b][key]), value, rtol=1e-4, atol=1e-4)


def check_bytes(mesh):
    """The owner of a matrix lacks (S - 1) / S of it, in bf16, and owes everyone else a part of the result: R (of the
    mesh's R x S) groups have all of it, but for the 1 / S that the owner itself keeps."""
    orthogonalization._fast_dtype = lambda device_type: torch.bfloat16
    copies, shards = (1, *mesh.shape)[-2:]
    params = []
    for _ in range(6):
        param = nn.Parameter(
            distribute_tensor(torch.randn(24, 10), mesh, [Replicate(), Shard(0)][-mesh.ndim :], src_data_rank=None)
        )
        param.grad = torch.ones_like(param)
        params.append(param)
    with counted() as found:
        Muon(params, 0.1).step()
    elements = 6 * 24 * 10
    least = 2 * elements * (shards - 1) / shards + 2 * elements * (copies - 1 / shards)
    assert total(found["bytes"]) == least
    assert found["messages"] == 2 * (shards > 1) + (copies > 1), "all at once, there and back"
    assert total(found["matrices"]) == 6
    share = 6 / (copies * shards)
    assert int(share) <= found["matrices"] <= -(-6 // (copies * shards)), "the work is not spread"
    orthogonalization._fast_dtype = lambda device_type: torch.float32


def check_checkpoint(mesh, folder):
    """Written by the first, two ranks, and read by all others: what is trained on is what would have been."""
    options = OPTIONS[0]
    model = fully_sharded(mesh)
    optimizer = build_optimizer(model, **options)
    if not folder.exists():
        train(model, optimizer, range(3))
        dcp.save(
            {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=folder
        )
    else:
        state = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}
        dcp.load(state, checkpoint_id=folder)
        model.load_state_dict(state["model"])
        set_optimizer_state_dict(model, optimizer, state["optimizer"])
    train(model, optimizer, range(3, 6))
    plain = build()
    train(plain, build_optimizer(plain, **options), range(6))
    assert_close(model.parameters(), plain.parameters())


def check_copies():
    """Plain parameters that are alike on all ranks of a group, which share the work if they are told so."""
    plain, copy = build(), build()
    train(plain, build_optimizer(plain, **OPTIONS[1]), range(3))
    with counted() as found:
        train(copy, build_optimizer(copy, **OPTIONS[1], process_group=dist.group.WORLD), range(3))
    assert total(found["matrices"]) == 3 * MATRICES - 1
    assert_close(copy.parameters(), plain.parameters())
    for parameter in copy.parameters():
        first = parameter.detach().clone()
        dist.broadcast(first, 0)
        assert torch.equal(parameter, first), "copies differ"


def check_tensor(mesh, placements, shape, layout):
    generator = torch.Generator().manual_seed(0)
    start, gradient = (torch.randn(shape, generator=generator) for _ in range(2))
    plain = nn.Parameter(start.clone())
    sharded = nn.Parameter(distribute_tensor(start.clone(), mesh, placements, src_data_rank=None))
    with counted() as found:
        for param in (plain, sharded):
            param.grad = (
                gradient if param is plain else distribute_tensor(gradient, mesh, placements, src_data_rank=None)
            )
            Muon([{"params": [param], "layout": layout}], 0.05, nesterov=True).step()
    matrices = start.shape[:-2].numel() if layout == "stacked" else 1
    assert total(found["matrices"]) == matrices * (mesh.size() + 1), "the plain one on every rank, the sharded one once"
    assert not torch.equal(plain, start)
    torch.testing.assert_close(local(sharded.detach()), shard_like(plain.detach(), sharded), rtol=0, atol=1e-5)


def check_strided(mesh):
    """FSDP2 on the first axis divides what tensor parallelism on the second one has divided: 4 and 3 rows into 2, 2 and
    2, 1."""
    generator = torch.Generator().manual_seed(0)
    start, gradient = (torch.randn(7, 3, generator=generator) for _ in range(2))
    row, col = mesh.get_coordinate()

    def part(full):
        return full.chunk(2)[col].chunk(2)[row].clone()

    def divided(full, split_factor=2):
        placements = [_StridedShard(0, split_factor=split_factor), Shard(0)]
        return DTensor.from_local(part(full), mesh, placements, shape=full.shape, stride=full.stride())

    plain, sharded = nn.Parameter(start), nn.Parameter(divided(start))
    assert copies(sharded) == 1
    assert [axis.group for axis in axes(sharded)] == [mesh.get_group(1), mesh.get_group(0)], "as they were divided"
    for param, its in ((plain, gradient), (sharded, divided(gradient))):
        param.grad = its
        Muon([param], 0.05).step()
    torch.testing.assert_close(local(sharded.detach()), part(plain.detach()), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="only replication and sharding as torch.chunk divides are known"):
        axes(divided(start, split_factor=4))
    with pytest.raises(ValueError, match=r"\(4, 3\) .* has parts of shape \([13], 3\) here"):
        axes(DTensor.from_local(torch.ones(1 + 2 * row, 3), mesh, [Shard(0), Replicate()], shape=(4, 3), stride=(3, 1)))


def check_pending_gradient(mesh):
    generator = torch.Generator().manual_seed(0)
    start, gradient = torch.randn(4, 3, generator=generator), torch.randn(4, 3, generator=generator)
    plain = nn.Parameter(start.clone())
    plain.grad = sum(gradient.roll(rank, 0) for rank in range(mesh.size()))
    replicated = nn.Parameter(distribute_tensor(start, mesh, [Replicate()], src_data_rank=None))
    replicated.grad = DTensor.from_local(gradient.roll(mesh.get_rank(), 0), mesh, [Partial()])
    for param in (plain, replicated):
        Muon([param], 0.05, nesterov=True).step()
    torch.testing.assert_close(gather(replicated), plain.detach(), rtol=0, atol=1e-5)
    replicated.grad = gradient
    with pytest.raises(ValueError, match=r"'w' of shape \(4, 3\) is a DTensor, and its gradient is not"):
        Muon([("w", replicated)], 0.05).step()


def check_nan(mesh):
    """In the gradient of the last rank that has some: the matrix is lost as a whole, and no other."""
    starts = [torch.ones(5, 4), torch.eye(5, 4), torch.ones(5, 4)]
    params = [nn.Parameter(distribute_tensor(start, mesh, [Shard(0)], src_data_rank=None)) for start in starts]
    for param in params:
        param.grad = torch.ones_like(param)
    if mesh.get_rank() == min(mesh.size() - 1, 2):
        local(params[1].grad)[-1, -1] = float("nan")
    Muon(params, 0.05).step()
    assert [gather(param).isnan().float().mean().item() for param in params] == [0, 1, 0]


def check_outer_step(mesh):
    plain, sharded = build(), fully_sharded(mesh)
    optimizers = [MuLoCo1(model, 0.05, sync_interval=2) for model in (plain, sharded)]
    for model, optimizer in zip((plain, sharded), optimizers, strict=True):
        train(model, optimizer, range(5))
    assert_close(sharded.parameters(), plain.parameters())
    for a, b in zip(plain.parameters(), sharded.parameters(), strict=True):
        for key in ("anchor", "outer_momentum"):
            expected, found = optimizers[0].state[a][key], optimizers[1].state[b][key]
            assert found.placements == b.placements and local(found).shape == local(b).shape
            torch.testing.assert_close(gather(found), expected, rtol=0, atol=1e-4)
    with optimizers[0].anchor_weights(), optimizers[1].anchor_weights():
        assert_close(sharded.parameters(), plain.parameters())


def test_equals_unsharded_on_one_to_four_ranks(spawn_ranks):
    spawn_ranks(check, 4)


def test_batches_are_under_way_while_the_next_begins():
    log = []

    def work(name):
        for number in range(3):
            log.append(f"{name}{number}")
            if number < 2:
                yield

    overlap(work(name) for name in "abc")
    assert log == ["a0", "b0", "a1", "c0", "b1", "a2", "c1", "b2", "c2"]


def test_a_process_group_without_this_rank_is_refused():
    with pytest.raises(ValueError, match="process_group must be None or .*, not -100"):
        Muon([nn.Parameter(torch.ones(2, 2))], 0.1, process_group=dist.GroupMember.NON_GROUP_MEMBER)
