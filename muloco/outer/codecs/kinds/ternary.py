"""Three values for an element: minus the scale of its row, nothing, or the scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from muloco.outer.codecs.codec import Codec, as_matrix, no_grad, setting, settle
from muloco.outer.codecs.quantized import Granularity

if TYPE_CHECKING:
    from torch import Tensor

THRESHOLD = 0.7
"""Share of the mean magnitude up to which elements become 0."""
_CODES = 5  # in a byte: 3^5 = 243


@dataclass(frozen=True, kw_only=True)
class Ternary(Codec, kind="ternary", about="-s, 0 or s, where s is the mean magnitude of what is not small"):
    """Ternary weights (Li and Liu 2016, arXiv 1605.04711): x -> s sign(x) where |x| > 0.7 mean |x|, else 0; s is the
    mean of the |x| above that threshold, which has nearly the least squared error of all thresholds for normally and
    for uniformly distributed elements.

    Payload: s of each row, fp32; then the codes of all rows, five to a byte: sum of (sign + 1) 3^i for i = 0 to 4. That
    makes 1.6 bits an element. Means are sums of integers, so that they do not depend on an order.
    """

    granularity: Granularity = setting("One scale for a tensor, or one for each row.", default="tensor")

    @property
    def size(self) -> str:
        return f"{8 / _CODES:g} bits"

    @property
    def details(self) -> str:
        return "per row" if self.granularity == "row" else ""

    def payload_bytes(self, shape: Sequence[int]) -> int:
        rows, columns = as_matrix(shape, self.granularity == "row")
        return 4 * rows + -(-rows * columns // _CODES)

    @no_grad
    def encode_pieces(self, pieces: Sequence[Tensor]) -> Tensor:
        import torch
        from torch.nn.functional import pad

        from muloco.outer.codecs.rows import in_groups, stacked

        rows, columns = as_matrix(pieces[0].shape, self.granularity == "row")
        if not rows:
            return torch.empty(len(pieces), 0, dtype=torch.uint8, device=pieces[0].device)
        payloads = []
        for some in in_groups(pieces):
            flat = stacked([piece.detach().float().reshape(-1) for piece in some])
            scales, signs = _ternary(flat.view(len(some) * rows, columns))
            digits = pad(signs.view(len(some), -1).add_(1).to(torch.uint8), (0, -rows * columns % _CODES))
            digits = digits.unflatten(1, (-1, _CODES))
            codes = digits[..., _CODES - 1].clone()
            for place in reversed(range(_CODES - 1)):
                codes.mul_(3).add_(digits[..., place])
            payloads.append(torch.cat([scales.view(len(some), -1).view(torch.uint8), codes], 1))
        return torch.cat(payloads)

    @no_grad
    def decode_pieces(
        self, payloads: Tensor, targets: Sequence[Tensor], *, weight: float = 1.0, add: bool = False
    ) -> None:
        import torch

        rows, columns = as_matrix(targets[0].shape, self.granularity == "row")
        if not rows:
            return
        places = torch.pow(3, torch.arange(_CODES, device=payloads.device)).to(torch.uint8)
        for payload, target in zip(payloads, targets, strict=True):
            before, codes = payload.tensor_split([4 * rows])
            scales = before.clone().view(torch.float32).view(rows, 1)  # a clone is aligned
            digits = codes.view(-1, 1).div(places, rounding_mode="floor").remainder_(3)
            signs = digits.view(-1)[: rows * columns].view(rows, columns).float().sub_(1)
            settle([target], [signs.mul_(scales).view(target.shape)], weight, add)


def _ternary(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns scale and signs of fp32 rows [r, n]: fp32 [r, 1], NaN where the row is not finite, and int8 [r, n]."""
    import torch

    magnitudes = rows.abs()
    greatest = magnitudes.amax(1, keepdim=True)
    shares = magnitudes.div_(torch.where(greatest > 0, greatest, 1.0))  # from 0 to 1
    one = 2.0 ** (61 - rows.shape[1].bit_length())  # the integer that stands for 1: the sum of a row fits 63 bits
    units = shares.double().mul_(one).to(torch.int64)
    mean = units.sum(1, keepdim=True).double() / (one * rows.shape[1])
    above = shares > (THRESHOLD * mean).float()
    total = torch.where(above, units, 0).sum(1, keepdim=True).double() / one
    scales = (greatest.double() * total / above.sum(1, keepdim=True).clamp_min_(1)).float()
    scales = torch.where(greatest.isfinite(), scales, torch.nan)
    return scales, rows.sign().to(torch.int8).mul_(above)
