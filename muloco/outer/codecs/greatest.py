"""Finds the elements of each row that are greatest in magnitude."""

from collections.abc import Iterable

import torch
from torch import Tensor

from muloco.outer.codecs.packing import block_elements

_HALF = 2**16


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
