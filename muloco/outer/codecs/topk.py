"""The greatest elements alone."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from muloco.outer.codecs.codec import Codec, settle
from muloco.outer.codecs.packing import block_elements, pack_wide, packed_bytes, unpack_wide

_HALF = 2**16


@dataclass(frozen=True)
class TopK(Codec):
    """See `muloco.outer.codecs`; of elements of equal magnitude those of the lowest index stay."""

    fraction: float
    values: Codec
    """Codec of the values that stay, a piece of shape [k]."""

    def kept(self, elements: int) -> int:
        """k, of that many elements."""
        return max(1, round(elements * self.fraction)) if elements else 0

    def payload_bytes(self, shape: Sequence[int]) -> int:
        elements = math.prod(shape)
        kept = self.kept(elements)
        return self.values.payload_bytes((kept,)) + packed_bytes(kept, _index_bits(elements))

    @torch.no_grad()
    def encode_pieces(self, pieces: Sequence[Tensor]) -> Tensor:
        elements = pieces[0].numel()
        payloads = []
        if elements == 0:
            return torch.empty(len(pieces), 0, dtype=torch.uint8, device=pieces[0].device)
        for some in _together(pieces, elements):
            flat = _rows([piece.detach().to(torch.float32).reshape(-1) for piece in some])
            index = greatest(flat, self.kept(elements))
            values = self.values.encode_pieces(flat.gather(1, index).unbind())
            payloads.append(torch.cat([values, pack_wide(index, _index_bits(elements))], 1))
        return torch.cat(payloads)

    @torch.no_grad()
    def decode_pieces(
        self, payloads: Tensor, targets: Sequence[Tensor], *, weight: float = 1.0, add: bool = False
    ) -> None:
        shape, elements = targets[0].shape, targets[0].numel()
        if elements == 0:
            return
        kept = self.kept(elements)
        done = 0
        for some in _together(targets, elements):
            part = payloads[done : done + len(some)]
            done += len(some)
            before, behind = part.tensor_split([self.values.payload_bytes((kept,))], dim=1)
            values = torch.empty(len(some), kept, device=payloads.device)
            self.values.decode_pieces(before, values.unbind())
            index = unpack_wide(behind, _index_bits(elements), kept).clamp_(
                max=elements - 1
            )  # payloads may hold any bytes
            if len(some) == 1 and not add and weight == 1:
                some[0].zero_().view(-1).scatter_(0, index.view(-1), values.view(-1))
                continue
            decoded = torch.zeros(len(some), elements, device=payloads.device)
            decoded.scatter_(1, index, values)
            settle(some, decoded.view(len(some), *shape).unbind(), weight, add)


def _rows(flat: Sequence[Tensor]) -> Tensor:
    """Stacks vectors of one length as the rows of a matrix."""
    return flat[0].view(1, -1) if len(flat) == 1 else torch.stack(tuple(flat))


def _together(pieces: Sequence[Tensor], elements: int) -> Iterator[Sequence[Tensor]]:
    """Yields the pieces in order, in groups of a size that suits the device."""
    count = max(1, block_elements(pieces[0].device) // max(1, elements))
    for start in range(0, len(pieces), count):
        yield pieces[start : start + count]


def _index_bits(elements: int) -> int:
    return max(elements - 1, 0).bit_length()


def greatest(rows: Tensor, count: int) -> Tensor:
    """Returns the indices of the `count` elements of greatest magnitude in each row, ascending. NaN counts as the
    greatest magnitude, and of equal elements the lowest indices are taken.

    Finds the magnitude of the last that stays by counting, the upper half of its bits first: the bits of fp32 numbers
    of one sign are in the order of the numbers.

    Args:
        rows: fp32 [r, n].
        count: from 1 to n, or 0.

    Returns:
        int64 [r, count].
    """
    number, elements = rows.shape
    if count in (0, elements):
        return torch.arange(count, device=rows.device).repeat(number, 1)
    width = max(1, block_elements(rows.device) // number)
    blocks = rows.view(torch.int32).split(width, 1)
    upper, left = _last_to_stay(_histogram((_magnitude(b) >> 16 for b in blocks), _HALF // 2), count)
    there = (torch.where(_magnitude(b) >> 16 == upper, b & _HALF - 1, _HALF) for b in blocks)
    lower, left = _last_to_stay(_histogram(there, _HALF + 1)[:, :_HALF], left)
    last = (upper << 16 | lower).to(torch.int32)
    stays = torch.empty(rows.shape, dtype=torch.bool, device=rows.device)
    for block, target in zip(blocks, stays.split(width, 1), strict=True):
        magnitude = _magnitude(block)
        tied = magnitude == last
        place = tied.cumsum(1, dtype=torch.int32)
        torch.logical_or(magnitude > last, tied.logical_and_(place <= left), out=target)
        left = left - place[:, -1:]
    index = torch.nonzero_static(stays.view(-1), size=number * count).view(number, count)
    return index if number == 1 else index.remainder_(elements)


def _magnitude(bits: Tensor) -> Tensor:
    """The bits of fp32 numbers without their sign."""
    return bits & 0x7FFFFFFF


def _histogram(cells: Iterable[Tensor], count: int) -> Tensor:
    """Returns how often each number below `count` occurs in the rows of the blocks, int64 [r, count]."""
    totals = None
    for block in cells:
        if totals is None:
            totals = torch.zeros(len(block), count, dtype=torch.int64, device=block.device)
            rows = torch.arange(0, totals.numel(), count, device=block.device).view(-1, 1)
        index = (block.to(torch.int64) if len(block) == 1 else block + rows).view(-1)
        # in one dimension: for more, torch has no deterministic operation on a GPU
        totals.view(-1).scatter_add_(0, index, torch.ones_like(index[:1]).expand_as(index))
    assert totals is not None
    return totals


def _last_to_stay(histogram: Tensor, count: int | Tensor) -> tuple[Tensor, Tensor]:
    """Returns the cell that holds the `count`-th greatest element of each row, and how many elements of this cell are
    among the `count` greatest, each int64 [r, 1]."""
    at_least = histogram.flip(1).cumsum(1).flip(1)
    cell = (at_least >= count).sum(1, keepdim=True) - 1
    return cell, count - (at_least - histogram).gather(1, cell)
