"""Between sharded and plain tensors.

Optimizers and the outer loop see plain tensors only. A parameter may nevertheless be a DTensor (FSDP2, HSDP, tensor
parallelism); these functions take it apart and put it together again. None of them records gradients, and for a plain
tensor each of them is the identity, so that callers need no branch of their own.
"""

import math

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

__all__ = ["copies", "gather", "local", "shard_like", "to_host", "wrap"]


@torch.no_grad()
def local(tensor: Tensor) -> Tensor:
    """This rank's part of `tensor`, sharing its storage, so that writing to it in place writes to `tensor`.

    Args:
        tensor: any shape and dtype, plain or DTensor.

    Returns:
        `tensor` itself if it is plain; of a DTensor the local shard as a plain tensor, which has no elements on a rank
        that owns none.
    """
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def gather(tensor: Tensor) -> Tensor:
    """The full plain tensor, on every rank. Collective over the mesh of a DTensor.

    Args:
        tensor: any shape and dtype, plain or DTensor; pending sums (`Partial`) are reduced.

    Returns:
        `tensor` itself if it is plain, else a plain tensor of the global shape and the same dtype.
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def shard_like(full: Tensor, like: Tensor) -> Tensor:
    """The part of `full` that this rank owns in the layout of `like`. No communication.

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
    """A copy of this rank's part in host memory, known as what `tensor` is sharded as. No communication.

    From an accelerator it is pinned and may be under way on return: synchronize before it is read.

    Args:
        tensor: any shape and dtype, plain or DTensor.
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
    return math.prod(size for size, placement in zip(sizes, tensor.placements, strict=True) if not placement.is_shard())
