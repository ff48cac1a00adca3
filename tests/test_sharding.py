"""Real gloo processes; the oracle is arithmetic on plain tensors that every rank knows in full."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from muloco.sharding import gather, local, shard_like, wrap

WORLD = 4
SHAPES = [(8, 3), (3, 5), (7, 2), (1, 4), (5,), (2, 3, 7)]


def numbered(shape):
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


def chunk(full, parts, index, dim):
    """Pieces of ceil(size / parts), the last ones shorter or empty."""
    size = full.shape[dim]
    step = -(-size // parts)
    start = min(index * step, size)
    return full.narrow(dim, start, min(step, size - start))


def check_layout(full, mesh, placements, piece):
    sharded = distribute_tensor(full.clone(), mesh, placements, src_data_rank=None)
    assert torch.equal(local(sharded), piece)
    assert torch.equal(gather(sharded), full)
    assert torch.equal(shard_like(full * 2, sharded), piece * 2)
    assert shard_like(full.double(), sharded).dtype == torch.float64
    assert not any(isinstance(t, DTensor) for t in (local(sharded), gather(sharded), shard_like(full, sharded)))
    local(sharded).add_(1)
    assert torch.equal(gather(sharded), full + 1)

    part = piece * 3
    wrapped = wrap(part, like=sharded)
    assert wrapped.placements == sharded.placements and wrapped.shape == full.shape
    assert torch.equal(gather(wrapped), full * 3)
    assert local(wrapped).data_ptr() == part.data_ptr()


def check(rank, store):
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD, timeout=timedelta(seconds=20))
    line = init_device_mesh("cpu", (WORLD,))
    square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    row, col = divmod(rank, 2)
    for shape in SHAPES:
        full = numbered(shape)
        check_layout(full, line, [Shard(0)], chunk(full, WORLD, rank, 0))
        check_layout(full, line, [Shard(full.ndim - 1)], chunk(full, WORLD, rank, full.ndim - 1))
        check_layout(full, line, [Replicate()], full)
        check_layout(full, square, [Replicate(), Shard(0)], chunk(full, 2, col, 0))
        check_layout(full, square, [Shard(0), Shard(0)], chunk(chunk(full, 2, row, 0), 2, col, 0))
        if full.ndim > 1:
            check_layout(full, square, [Shard(0), Shard(1)], chunk(chunk(full, 2, row, 0), 2, col, 1))

    parameter = torch.nn.Parameter(distribute_tensor(numbered((3, 2)), line, [Shard(0)], src_data_rank=None))
    assert not local(parameter).requires_grad and not gather(parameter).requires_grad

    pending = DTensor.from_local(numbered((3, 2)) * rank, line, [Partial()])
    assert torch.equal(gather(pending), numbered((3, 2)) * sum(range(WORLD)))

    with pytest.raises(ValueError, match=r"shape \(2, 3\) like one of shape \(3, 2\)"):
        shard_like(numbered((2, 3)), parameter)
    with pytest.raises(ValueError, match=r"part of shape \(9, 2\)"):
        wrap(numbered((9, 2)), like=parameter)

    if rank == 1:  # sharding communicates nothing: in a collective this rank would wait for the others in vain
        assert torch.equal(shard_like(numbered((3, 2)), parameter), numbered((3, 2))[1:2])
    dist.destroy_process_group()


def test_dtensors_come_apart_and_together_again(spawn_ranks):
    """Even, uneven and empty shards of one and two dimensions; HSDP meshes; replicated and pending tensors."""
    spawn_ranks(check, WORLD)


def test_plain_tensors_are_themselves():
    tensor, other = torch.ones(2, 3), torch.zeros(2, 3)
    assert local(tensor) is tensor
    assert gather(tensor) is tensor
    assert shard_like(tensor, other) is tensor
    assert wrap(tensor, like=other) is tensor
    with pytest.raises(ValueError, match=r"shape \(2, 3\) like one of shape \(3, 2\)"):
        shard_like(tensor, other.mT)
