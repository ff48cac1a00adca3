"""The greatest elements alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from muloco.outer.codecs.codec import Codec, no_grad, packed_bytes, setting, settle
from muloco.outer.codecs.kinds.dense import BFloat16, Float32
from muloco.outer.codecs.kinds.linear import Linear
from muloco.outer.codecs.kinds.lloyd_max import LloydMax
from muloco.outer.codecs.kinds.statistical import Statistical
from muloco.settings.annotations import Bits, SomeShare

if TYPE_CHECKING:
    from torch import Tensor

_DENSE = {"fp32": Float32, "bf16": BFloat16}
_QUANTIZED: dict[str, type[Linear] | type[Statistical] | type[LloydMax]] = {
    "linear": Linear,
    "statistical": Statistical,
    "lloyd_max": LloydMax,
}


@dataclass(frozen=True, kw_only=True)
class TopK(Codec, kind="topk", about="the share `fraction` of the elements that are greatest in magnitude, else 0"):
    """Keeps n x `fraction` of n elements, rounded, and at least 1. Of elements of equal magnitude those of the lowest
    index stay; NaN counts as the greatest of all.

    Payload: the k values that stay, in order of their index, as a payload of a piece of shape [k] (`values`); then
    their k indices, ascending, in the fewest whole bits that hold n - 1 (`packing.pack_wide`).
    """

    keeps = "the largest elements"

    fraction: SomeShare = setting(
        "Share of the elements that is sent.",
        derived=0.1,
        reason="compression.kind {kind}: a tenth, as in the paper's experiments",
    )
    values: Literal["fp32", "bf16", "linear", "statistical", "lloyd_max"] = setting(
        "How the values are sent.",
        default="fp32",
        derived="fp32",
        reason="compression.kind {kind}: values travel as they are",
    )
    bits: Bits | None = setting("Bits of a value, where they are quantized.", default=None)

    def __post_init__(self) -> None:
        if self.values in _DENSE and self.bits is not None:
            allowed = "linear, statistical or lloyd_max"
            raise ValueError(f"kind 'topk' takes bits only with values {allowed}; got values {self.values!r}")
        if self.values in _QUANTIZED and self.bits is None:
            raise ValueError(f"topk with values {self.values} needs bits, a whole number from 1 to 8; got None")

    @classmethod
    def derive(cls, given: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
        values = given.get("values")
        coded = {} if values not in _QUANTIZED else _QUANTIZED[str(values)].derive({**given, "granularity": "tensor"})
        return {**super().derive(given), **coded}

    @property
    def size(self) -> str:
        return f"{100 * self.fraction:g} %"

    @property
    def details(self) -> str:
        return "" if self.values == "fp32" else f"{self.values} values"

    @property
    def carrier(self) -> Codec:
        """Codec of the values that are kept."""
        return _QUANTIZED[self.values](bits=self.bits) if self.bits else _DENSE[self.values]()

    def kept(self, elements: int) -> int:
        """Returns k, the number of elements that are kept of so many."""
        return max(1, round(elements * self.fraction)) if elements else 0

    def payload_bytes(self, shape: Sequence[int]) -> int:
        elements = math.prod(shape)
        kept = self.kept(elements)
        return self.carrier.payload_bytes((kept,)) + packed_bytes(kept, _index_bits(elements))

    @no_grad
    def encode_pieces(self, pieces: Sequence[Tensor]) -> Tensor:
        import torch

        from muloco.outer.codecs.greatest import greatest
        from muloco.outer.codecs.packing import pack_wide
        from muloco.outer.codecs.rows import in_groups, stacked

        elements = pieces[0].numel()
        payloads = []
        if elements == 0:
            return torch.empty(len(pieces), 0, dtype=torch.uint8, device=pieces[0].device)
        for some in in_groups(pieces):
            flat = stacked([piece.detach().float().reshape(-1) for piece in some])
            index = greatest(flat, self.kept(elements))
            values = self.carrier.encode_pieces(flat.gather(1, index).unbind())
            payloads.append(torch.cat([values, pack_wide(index, _index_bits(elements))], 1))
        return torch.cat(payloads)

    @no_grad
    def decode_pieces(
        self, payloads: Tensor, targets: Sequence[Tensor], *, weight: float = 1.0, add: bool = False
    ) -> None:
        import torch

        from muloco.outer.codecs.packing import unpack_wide
        from muloco.outer.codecs.rows import in_groups

        shape, elements = targets[0].shape, targets[0].numel()
        if elements == 0:
            return
        kept = self.kept(elements)
        done = 0
        for some in in_groups(targets):
            part = payloads[done : done + len(some)]
            done += len(some)
            before, behind = part.tensor_split([self.carrier.payload_bytes((kept,))], dim=1)
            values = torch.empty(len(some), kept, device=payloads.device)
            self.carrier.decode_pieces(before, values.unbind())
            index = unpack_wide(behind, _index_bits(elements), kept).clamp_(
                max=elements - 1
            )  # payloads may hold any bytes
            if len(some) == 1 and not add and weight == 1:
                some[0].zero_().view(-1).scatter_(0, index.view(-1), values.view(-1))
                continue
            decoded = torch.zeros(len(some), elements, device=payloads.device)
            decoded.scatter_(1, index, values)
            settle(some, decoded.view(len(some), *shape).unbind(), weight, add)


def _index_bits(elements: int) -> int:
    return max(elements - 1, 0).bit_length()
