"""An even grid over six standard deviations, each bin decoded to its mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from muloco.outer.codecs.quantized import Quantized

if TYPE_CHECKING:
    from torch import Tensor

    from muloco.outer.codecs.kernels import Stack

_SIGMAS = 6.0


@dataclass(frozen=True, kw_only=True)
class Statistical(
    Quantized, kind="statistical", about="an even grid of 2^bits bins over 6 standard deviations, each bin its mean"
):
    """The quantizer of the paper (arXiv 2505.23725): code = clamp(round((x - mean) / step) + 2^bits / 2), step = 6
    sigma / 2^bits; level = mean of the bin.

    The level of an empty bin is the mean of the row. A row has at most about 2^32 elements.
    """

    def quantize(self, rows: Tensor, codes: Tensor) -> Tensor:
        import torch

        from muloco.outer.codecs.rows import Totals, blocks, extremes, moments

        least, greatest = extremes(rows)
        mean, sigma = moments(rows, least, greatest)
        step = sigma * (_SIGMAS / self.levels)
        totals = Totals(len(rows), self.levels, rows.device)
        for block, target in zip(blocks(rows), blocks(codes), strict=True):
            steps = (block - mean).div_(step).nan_to_num_(0.0, 0.0, 0.0)  # 0 / 0 in a constant row
            bins = steps.round().add_(self.levels // 2).clamp_(0, self.levels - 1).to(torch.int64)
            target.copy_(bins)
            totals.add(bins, steps)
        average = totals.sums / totals.counts.clamp_min(1)
        return torch.clamp((mean + step.double() * average).float(), least, greatest)

    def quantize_stack(self, stack: Stack, codes: Tensor) -> Tensor:
        import torch

        from muloco.outer.codecs.rows import ONE

        least, greatest, mean, sigma = stack.statistics()
        step = sigma * (_SIGMAS / self.levels)
        counts, sums = stack.pack_statistical(codes, self.bits, mean, step)
        average = sums.double().div_(ONE).div_(counts.clamp_min_(1))
        return torch.clamp((mean + step.double() * average).float(), least, greatest)
