"""Computations of the codecs on the rows of a matrix: blocks, statistics, and sums that depend on no order."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from muloco.outer.codecs.packing import block_elements

ONE = 2**24
"""The integer that stands for a value of 1 in integer sums of values; an fp32 number has as many digits."""


def blocks(rows: Tensor) -> tuple[Tensor, ...]:
    """[r, n] in blocks of columns, of the size that `block_elements` gives."""
    return rows.split(max(1, block_elements(rows.device) // len(rows)), dim=1)


def extremes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest element of each row, [r, 1] each; NaN where the row has one."""
    return rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)


def moments(rows: Tensor, least: Tensor, greatest: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (of a sample: over n - 1; 0 where n = 1) of each row, fp32 [r, 1] each.

    Squares are taken of elements over the greatest magnitude, so that they stay in the range of fp32.
    """
    count = rows.shape[1]
    scale = torch.maximum(least.abs(), greatest.abs())
    scale = torch.where(scale > 0, scale, 1.0)
    mean = _row_sums(block / scale for block in blocks(rows)) / count
    squares = _row_sums((block / scale).sub_(mean.float()).square_() for block in blocks(rows))
    sigma = (squares / max(count - 1, 1)).sqrt()
    return (mean * scale).float(), (sigma * scale).float()


def _row_sums(parts: Iterable[Tensor]) -> Tensor:
    """fp64 [r, 1], over fp32 blocks of columns."""
    return torch.stack([part.sum(1, keepdim=True).double() for part in parts]).sum(0)


def gather_levels(levels: Tensor, codes: Tensor) -> Tensor:
    """levels[row, code] for levels [r, L] and whole numbers below L as codes [r, n]."""
    index = codes.to(torch.int32, copy=True)
    if len(levels) > 1:
        index += torch.arange(0, levels.numel(), levels.shape[1], dtype=torch.int32, device=codes.device).view(-1, 1)
    return levels.reshape(-1).index_select(0, index.view(-1)).view(codes.shape)


class Totals:
    """How many values fell into each cell of each row, and their sum: integers, so that their order does not matter."""

    _LANES = 4  # a single row is added up in parts: CPUs are twice as fast at it

    def __init__(self, rows: int, cells: int, device: torch.device):
        self._rows = rows
        lanes = self._LANES if rows == 1 else rows
        self._counts = torch.zeros(lanes, cells, dtype=torch.int64, device=device)
        self._sums = torch.zeros_like(self._counts)

    def add(self, cells: Tensor, values: Tensor) -> None:
        """Counts fp32 values [r, n], of a mean magnitude below 100, into cells [r, n] (int64); overwrites `values`."""
        lanes = len(self._counts)
        if self._rows == 1:
            lanes = lanes if cells.numel() % lanes == 0 else 1
            cells, values = cells.view(lanes, -1), values.view(lanes, -1)
        ones = torch.ones((), dtype=torch.int64, device=cells.device).expand_as(cells)
        self._counts[:lanes].scatter_add_(1, cells, ones)
        self._sums[:lanes].scatter_add_(1, cells, values.mul_(ONE).to(torch.int64))

    @property
    def counts(self) -> Tensor:
        """fp64 [r, cells], whole numbers."""
        return self._of_rows(self._counts).double()

    @property
    def sums(self) -> Tensor:
        """fp64 [r, cells]."""
        return self._of_rows(self._sums).double() / ONE

    def _of_rows(self, totals: Tensor) -> Tensor:
        return totals.sum(0, keepdim=True) if self._rows == 1 else totals


def in_groups(pieces: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """Yields pieces of one shape in order, in groups of a size that suits the device."""
    count = max(1, block_elements(pieces[0].device) // max(1, pieces[0].numel()))
    for start in range(0, len(pieces), count):
        yield pieces[start : start + count]


def stacked(vectors: Sequence[Tensor]) -> Tensor:
    """Returns vectors of one length as the rows of a matrix; a single one is not copied."""
    return vectors[0].view(1, -1) if len(vectors) == 1 else torch.stack(tuple(vectors))
