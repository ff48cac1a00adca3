"""Sends sharded matrices to their owners and directions back, in parallel with computation on other batches.

The functions go through the axes of a batch one by one. On the way to the owners, from the last to the first: of an
axis of copies a rank keeps what it is to own, over an axis that divides it gets what the others have of that. On the
way back, from the first to the last, the owner on an axis gives every other rank its part, or its copy.

The functions are generators that yield when they have sent something and would have to wait for an answer. Ranks that
share matrices have to take the same steps in the same order.
"""

from collections.abc import Generator, Iterable, Iterator
from itertools import islice

import torch
import torch.distributed as dist
from torch import Tensor

from muloco.optim.owners import Batch, Stack
from muloco.sharding import Axis, part_shape


def overlap(works: Iterable[Generator[None, None, None]]) -> None:
    """Runs generators interleaved until all have ended. In each round one more begins before those under way go on, the
    youngest first, so that it computes while the messages of the others are sent."""
    under_way: list[Generator[None, None, None]] = []
    for work in works:
        under_way = [begun for begun in (work, *under_way) if _goes_on(begun)]
    while under_way:
        under_way = [begun for begun in under_way if _goes_on(begun)]


def to_owners(
    batch: Batch, wanted: dict[Stack, Tensor], dtype: torch.dtype
) -> Generator[None, None, list[tuple[Stack, Tensor]]]:
    """Sends parts of matrices to their owners.

    Args:
        batch: the stacks that are exchanged together.
        wanted: this rank's parts of each stack that the batch wants from it, in the order of the batch, each
            `[matrices, *shape of the part]`.
        dtype: the dtype of the parts.

    Returns:
        The stacks that this rank owns, in the order of the batch, each with its matrices `[matrices, *shape]`. It is
        the given tensor if nothing was sent.
    """
    here, parts = list(wanted), list(wanted.values())
    for place, axis in reversed(list(enumerate(batch.axes))):
        if axis.dim is None:
            continue
        outgoing: list[list[Tensor]] = [[] for _ in range(axis.size)]
        for stack, stack_parts in zip(here, parts, strict=True):
            outgoing[stack.owner[place]] += stack_parts
        here = [stack for stack in here if stack.owner[place] == axis.rank]
        shapes = [part_shape(stack.shape, batch.axes[:place]) for stack in here]
        incoming = [
            [axis.part(shape, rank) for stack, shape in zip(here, shapes, strict=True) for _ in stack.matrices]
            for rank in range(axis.size)
        ]
        received = yield from _all_to_all(axis, outgoing, incoming, dtype, batch.device)
        parts = []
        for stack, shape in zip(here, shapes, strict=True):
            whole = torch.empty(len(stack.matrices), *shape, dtype=dtype, device=batch.device)
            for pieces, target in zip(received, whole.split(axis.lengths(shape[axis.dim]), 1 + axis.dim), strict=True):
                _copy(list(target), list(islice(pieces, len(stack.matrices))))
            parts.append(whole)
    return list(zip(here, parts, strict=True))


def from_owners(batch: Batch, directions: list[Tensor], dtype: torch.dtype) -> Generator[None, None, list[Tensor]]:
    """Returns this rank's part of the direction of every matrix of the batch, in the order of the batch, given the
    directions of the stacks that this rank owns, `[matrices, *shape]` in this dtype, in the same order."""
    here = [direction for stack in directions for direction in stack]
    for place, axis in enumerate(batch.axes):
        outgoing = [here] * axis.size
        if axis.dim is not None:
            cut = [part.split(axis.lengths(part.shape[axis.dim]), axis.dim) for part in here]
            outgoing = [[pieces[rank] for pieces in cut] for rank in range(axis.size)]
        later = range(place + 1, len(batch.axes))
        wanted = [stack for stack in batch.stacks if all(stack.owner[i] == batch.axes[i].rank for i in later)]
        incoming: list[list[torch.Size]] = [[] for _ in range(axis.size)]
        for stack in wanted:
            shape = part_shape(stack.shape, batch.axes[: place + 1])
            incoming[stack.owner[place]] += [shape] * len(stack.matrices)
        received = yield from _all_to_all(axis, outgoing, incoming, dtype, batch.device)
        here = [part for stack in wanted for part in islice(received[stack.owner[place]], len(stack.matrices))]
    return here


def _all_to_all(
    axis: Axis,
    outgoing: list[list[Tensor]],
    incoming: list[list[torch.Size]],
    dtype: torch.dtype,
    device: torch.device,
) -> Generator[None, None, list[Iterator[Tensor]]]:
    """Exchanges one message between each two ranks of an axis: what `outgoing` has for each of them, and tensors of the
    shapes in `incoming` from each, which are returned. The part for this rank itself is not sent."""
    others = [rank for rank in range(axis.size) if rank != axis.rank]
    leaving = [tensor for rank in others for tensor in outgoing[rank]]
    coming = [shape for rank in others for shape in incoming[rank]]
    sent = torch.empty(sum(tensor.numel() for tensor in leaving), dtype=dtype, device=device)
    _copy(_pieces(sent, [tensor.shape for tensor in leaving]), leaving)
    received = torch.empty(sum(shape.numel() for shape in coming), dtype=dtype, device=device)

    def sizes(counts: list[int]) -> list[int]:
        return [0 if rank == axis.rank else count * dtype.itemsize for rank, count in enumerate(counts)]

    work = dist.all_to_all_single(
        received.view(torch.uint8),  # which every backend knows
        sent.view(torch.uint8),
        sizes([sum(shape.numel() for shape in shapes) for shapes in incoming]),
        sizes([sum(tensor.numel() for tensor in tensors) for tensors in outgoing]),
        group=axis.group,
        async_op=True,
    )
    yield
    assert work is not None
    work.wait()  # until then the buffers have to live
    came = iter(_pieces(received, coming))
    return [
        iter(outgoing[rank]) if rank == axis.rank else iter(list(islice(came, len(shapes))))
        for rank, shapes in enumerate(incoming)
    ]


def _pieces(flat: Tensor, shapes: list[torch.Size]) -> list[Tensor]:
    """Views of these shapes, one after the other."""
    pieces = flat.split([shape.numel() for shape in shapes]) if shapes else []
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _copy(targets: list[Tensor], values: list[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, values)


def _goes_on(work: Generator[None, None, None]) -> bool:
    return next(work, work) is None
