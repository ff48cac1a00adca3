"""Conversion between sharded and plain tensors.

Optimizers and the outer loop see plain tensors only. A parameter may nevertheless be a DTensor (FSDP2, HSDP, tensor
parallelism); these functions take it apart and put it together again. None of them records gradients, and for a plain
tensor each of them is the identity, so that callers need no branch of their own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import Placement, _StridedShard


@torch.no_grad()
def local(tensor: Tensor) -> Tensor:
    """Returns this rank's part of `tensor`, of any shape and dtype, which shares its storage, so that writing to it in
    place writes to `tensor`: `tensor` itself if it is plain; of a DTensor the local shard as a plain tensor, which has
    no elements on a rank that owns none."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def gather(tensor: Tensor) -> Tensor:
    """Returns the full plain tensor of the same dtype, on every rank; pending sums (`Partial`) are reduced. Collective
    over the mesh of a DTensor; a plain tensor is returned as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def shard_like(full: Tensor, like: Tensor) -> Tensor:
    """Returns the part of `full` that this rank owns in the layout of `like`. No communication.

    Args:
        full: plain tensor of the global shape of `like`, with equal values on every rank of its mesh.
        like: plain or DTensor, sharded (evenly or not) or replicated; only its layout is read.

    Returns:
        A plain tensor with the shape of `local(like)` and the dtype of `full`; it may share the storage of `full`.

    Raises:
        ValueError: the shapes differ.
    """
    if full.shape != like.shape:
        raise ValueError(f"cannot shard a tensor of shape {tuple(full.shape)} like one of shape {tuple(like.shape)}")
    if not isinstance(like, DTensor):
        return full
    everywhere = [Replicate()] * like.device_mesh.ndim
    replicated = DTensor.from_local(full, like.device_mesh, everywhere, run_check=False)
    return local(replicated.redistribute(placements=like.placements))


@torch.no_grad()
def wrap(part: Tensor, *, like: Tensor) -> Tensor:
    """`part`, known as what `like` is sharded as; the inverse of `local`. No communication.

    Args:
        part: plain tensor of the shape of `local(like)`.
        like: plain or DTensor; only its layout is read.

    Returns:
        `part` itself if `like` is plain, else a DTensor of the layout of `like` that shares the storage of `part`.

    Raises:
        ValueError: the shapes differ.
    """
    if part.shape != local(like).shape:
        raise ValueError(f"a part of shape {tuple(part.shape)} is not one of {tuple(local(like).shape)}")
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


@torch.no_grad()
def to_host(tensor: Tensor) -> Tensor:
    """A copy of this rank's part of a tensor of any shape and dtype in host memory, known as what `tensor` is sharded
    as. No communication.

    From an accelerator it is pinned and may be under way on return: synchronize before it is read.
    """
    part = local(tensor).detach()
    host = torch.empty_like(part, device="cpu", pin_memory=part.device.type == "cuda").copy_(part, non_blocking=True)
    # from_local would bring it back to the device of the mesh
    return DTensor(host, tensor._spec, requires_grad=False) if isinstance(tensor, DTensor) else host


def copies(tensor: Tensor) -> int:
    """How many ranks of a DTensor's mesh hold each of its elements; 1 for a plain tensor."""
    if not isinstance(tensor, DTensor):
        return 1
    sizes = tensor.device_mesh.shape
    return math.prod(size for size, placement in zip(sizes, tensor.placements, strict=True) if placement.is_replicate())


@dataclass(frozen=True)
class Axis:
    """Ranks that have parts of one tensor, or copies of it."""

    group: ProcessGroup
    """Group of the ranks along the axis, this one among them."""
    dim: int | None
    """The dimension that is divided, as `torch.chunk` does, ranks behind its end getting nothing; None: copies."""

    @property
    def size(self) -> int:
        return self.group.size()

    @property
    def rank(self) -> int:
        """Rank of this process in the group."""
        return self.group.rank()

    def lengths(self, length: int) -> list[int]:
        """Returns the length of each rank's part of a dimension of this length."""
        longest = -(-length // self.size)
        return [max(0, min(longest, length - rank * longest)) for rank in range(self.size)]

    def part(self, shape: torch.Size, rank: int) -> torch.Size:
        """Returns the shape of a rank's part of a tensor of this shape."""
        if self.dim is None:
            return shape
        return torch.Size((*shape[: self.dim], self.lengths(shape[self.dim])[rank], *shape[self.dim + 1 :]))


def part_shape(shape: torch.Size, axes: Sequence[Axis]) -> torch.Size:
    """Shape of what this rank has of a tensor of this shape that is divided over these axes, one after the other."""
    for axis in axes:
        shape = axis.part(shape, axis.rank)
    return shape


def axes(tensor: Tensor) -> tuple[Axis, ...]:
    """How a tensor lies on the ranks of its mesh: the axes that divide it, in the order in which they do, and then
    those that repeat it. Axes of one rank are left out. A plain tensor has none.

    Raises:
        ValueError: the parts are not those of `torch.chunk`, axis by axis, or sums are pending.
    """
    if not isinstance(tensor, DTensor):
        return ()
    mesh, places = tensor.device_mesh, tensor.placements
    used = [index for index, size in enumerate(mesh.shape) if size > 1]
    # a _StridedShard is a Shard for torch below 2.11
    plain = [i for i in used if isinstance(places[i], Shard) and not isinstance(places[i], _StridedShard)]
    # FSDP2 divides what axes to its right, those of tensor parallelism, have divided already: it is strided over them.
    strided = [
        index
        for index in reversed(used)
        if isinstance(place := places[index], _StridedShard)
        and place.split_factor == math.prod(mesh.size(i) for i in used if i > index and _dim(places[i]) == place.dim)
    ]
    copied = [index for index in used if places[index].is_replicate()]
    known = tuple(Axis(mesh.get_group(index), _dim(places[index])) for index in (*plain, *strided, *copied))
    if len(known) < len(used) or part_shape(tensor.shape, known) != local(tensor).shape:
        raise ValueError(
            f"a tensor of shape {tuple(tensor.shape)} with placements {tensor.placements} has parts of shape "
            f"{tuple(local(tensor).shape)} here; only replication and sharding as torch.chunk divides are known"
        )
    return known


def _dim(placement: Placement) -> int | None:
    return placement.dim if isinstance(placement, Shard | _StridedShard) else None
