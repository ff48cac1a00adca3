"""Levels of least squared error for the elements at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from muloco.outer.codecs.quantized import Quantized

if TYPE_CHECKING:
    from torch import Tensor

    from muloco.outer.codecs.kernels import Stack


@dataclass(frozen=True, kw_only=True)
class LloydMax(Quantized, kind="lloyd_max", about="the 2^bits levels of least squared error for these very elements"):
    """The quantizer of Lloyd (1957) and Max (1960) for a fine histogram of each row, whose cells keep exact means.

    The levels start at equal shares of the cube root of the density, the optimum for many levels (Panter and Dite,
    1951), and move by Lloyd's iteration: boundaries half way between levels, levels to the means between boundaries.
    """

    def quantize(self, rows: Tensor, codes: Tensor) -> Tensor:
        import torch

        from muloco.outer.codecs.lloyd import Grid, codes_between, fit, scores_of
        from muloco.outer.codecs.rows import Totals, blocks, extremes, gather_levels, moments

        least, greatest = extremes(rows)
        mean, sigma = moments(rows, least, greatest)
        grid = Grid.of(rows.shape[1], self.bits)
        totals = Totals(len(rows), grid.cells, rows.device)
        for block in blocks(rows):
            scores = scores_of(block, mean, sigma)
            totals.add(grid.cell(scores).to(torch.int64), scores)
        levels, starts = fit(grid, totals.counts, totals.sums, self.levels)
        code_of_cell = codes_between(starts, grid.cells)
        for block, target in zip(blocks(rows), blocks(codes), strict=True):
            target.copy_(gather_levels(code_of_cell, grid.cell(scores_of(block, mean, sigma))))
        return torch.clamp((mean + sigma.double() * levels).float(), least, greatest)

    def quantize_stack(self, stack: Stack, codes: Tensor) -> Tensor:
        import torch

        from muloco.outer.codecs import kernels
        from muloco.outer.codecs.fitting import fit
        from muloco.outer.codecs.lloyd import CELLS, Grid

        least, greatest, mean, sigma = stack.statistics()
        grid = Grid.of(stack.columns, self.bits)
        levels = torch.empty(stack.all_rows, self.levels, dtype=torch.float64, device=mean.device)
        starts = torch.empty(stack.all_rows, self.levels, dtype=torch.int32, device=mean.device)
        step = max(1, CELLS // grid.cells)
        for first in range(0, stack.all_rows, step):
            some = slice(first, first + step)
            counts, sums = stack.count(mean, sigma, some, grid.fineness, grid.half)
            fit(counts, sums, grid.fineness, levels[some], starts[some])
        cells = grid.fineness, grid.half
        stack.pack(codes, self.bits, mean, sigma, kernels.CELLS, firsts=starts, cells=cells)
        return torch.clamp((mean + sigma.double() * levels).float(), least, greatest)
