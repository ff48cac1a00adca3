"""Even steps from the least to the greatest element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from muloco.outer.codecs.quantized import Quantized

if TYPE_CHECKING:
    from torch import Tensor

    from muloco.outer.codecs.kernels import Stack


@dataclass(frozen=True, kw_only=True)
class Linear(Quantized, kind="linear", about="the nearest of 2^bits even steps from the least to the greatest element"):
    """code = round((x - least) / step), step = (greatest - least) / (2^bits - 1); decoded: least + step x code.

    Metadata of a row: least element, step.
    """

    linear = True

    @property
    def metadata(self) -> int:
        return 2

    def quantize(self, rows: Tensor, codes: Tensor) -> Tensor:
        import torch

        from muloco.outer.codecs.rows import blocks, extremes

        least, greatest = extremes(rows)
        step = self._step(least, greatest)
        for block, target in zip(blocks(rows), blocks(codes), strict=True):
            scaled = (block - least).div_(step).nan_to_num_(0.0)  # 0 / 0 in a constant row
            target.copy_(scaled.round_().clamp_(0, self.levels - 1).int())  # much faster in two steps
        return torch.cat([least, step], 1)

    def quantize_stack(self, stack: Stack, codes: Tensor) -> Tensor:
        import torch

        from muloco.outer.codecs.kernels import LINEAR

        least, greatest, _, _ = stack.statistics()
        step = self._step(least, greatest)
        stack.pack(codes, self.bits, least, step, LINEAR)
        return torch.cat([least, step], 1)

    def _step(self, least: Tensor, greatest: Tensor) -> Tensor:
        return ((greatest.double() - least.double()) / (self.levels - 1)).float()

    def dequantize(self, metadata: Tensor, codes: Tensor) -> Tensor:
        least, step = metadata.split(1, dim=1)
        return codes.float().mul_(step).add_(least)
