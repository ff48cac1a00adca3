"""The greatest elements alone."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from muloco.outer.codecs.codec import Codec, check_payload
from muloco.outer.codecs.packing import block_elements, pack_wide, packed_bytes, unpack_wide

_HALF = 2**16


@dataclass(frozen=True)
class TopK:
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
    def encode(self, piece: Tensor) -> Tensor:
        flat = piece.detach().to(torch.float32).reshape(-1)
        index = greatest(flat, self.kept(flat.numel()))
        return torch.cat([self.values.encode(flat.index_select(0, index)), pack_wide(index, _index_bits(flat.numel()))])

    @torch.no_grad()
    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        check_payload(payload, self.payload_bytes(shape), shape)
        elements = math.prod(shape)
        kept = self.kept(elements)
        before, behind = payload.tensor_split([self.values.payload_bytes((kept,))])
        index = unpack_wide(behind, _index_bits(elements), kept).clamp_(max=elements - 1)  # in place, of any bytes
        decoded = torch.zeros(elements, dtype=dtype, device=payload.device)
        return decoded.scatter_(0, index, self.values.decode(before, (kept,), dtype)).view(tuple(shape))


def _index_bits(elements: int) -> int:
    return max(elements - 1, 0).bit_length()


def greatest(flat: Tensor, count: int) -> Tensor:
    """Indices of the `count` elements of greatest magnitude (NaN above all), ascending; the lowest among equals.

    Finds the magnitude of the last that stays by counting, the upper half of its bits first: the bits of fp32 numbers
    of one sign are in the order of the numbers.

    Args:
        flat: fp32 [n].
        count: from 1 to n, or 0.

    Returns:
        int64 [count].
    """
    if count in (0, flat.numel()):
        return torch.arange(count, device=flat.device)
    blocks = flat.view(torch.int32).split(block_elements(flat.device))
    upper, left = _last_to_stay(_histogram((_magnitude(b) >> 16 for b in blocks), _HALF // 2), count)
    there = (torch.where(_magnitude(b) >> 16 == upper, b & _HALF - 1, _HALF) for b in blocks)
    lower, left = _last_to_stay(_histogram(there, _HALF + 1)[:_HALF], left)
    last = (upper << 16 | lower).to(torch.int32)
    stays = torch.empty(flat.numel(), dtype=torch.bool, device=flat.device)
    for block, target in zip(blocks, stays.split(block_elements(flat.device)), strict=True):
        magnitude = _magnitude(block)
        tied = magnitude == last
        place = tied.cumsum(0, dtype=torch.int32)
        torch.logical_or(magnitude > last, tied.logical_and_(place <= left), out=target)
        left = left - place[-1]
    return torch.nonzero_static(stays, size=count).view(-1)


def _magnitude(bits: Tensor) -> Tensor:
    """The bits of fp32 numbers without their sign."""
    return bits & 0x7FFFFFFF


def _histogram(cells: Iterable[Tensor], count: int) -> Tensor:
    """int64 [count]: how often each number below `count` occurs in the blocks."""
    totals = None
    for block in cells:
        if totals is None:
            totals = torch.zeros(count, dtype=torch.int64, device=block.device)
        index = block.to(torch.int64)
        totals.scatter_add_(0, index, torch.ones_like(index[:1]).expand_as(index))
    assert totals is not None
    return totals


def _last_to_stay(histogram: Tensor, count: int | Tensor) -> tuple[Tensor, Tensor]:
    """The cell that holds the `count`-th greatest, and how many of that cell belong to the `count`: int64 [1] each."""
    at_least = histogram.flip(0).cumsum(0).flip(0)
    cell = (at_least >= count).sum().view(1) - 1
    return cell, count - (at_least - histogram).index_select(0, cell)
