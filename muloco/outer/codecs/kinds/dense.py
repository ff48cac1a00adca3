"""Every element as a floating-point number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from muloco.outer.codecs.codec import Codec, no_grad, settle

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Dense(Codec):
    """Sends each element as one number of a floating-point format."""

    itemsize: ClassVar[int]
    """Bytes of an element."""
    dtype: ClassVar[str]
    """Name of the format in torch."""

    def payload_bytes(self, shape: Sequence[int]) -> int:
        return math.prod(shape) * self.itemsize

    @no_grad
    def encode_pieces(self, pieces: Sequence[Tensor]) -> Tensor:
        import torch

        sent = torch.empty(len(pieces), *pieces[0].shape, dtype=getattr(torch, self.dtype), device=pieces[0].device)
        torch._foreach_copy_(sent.unbind(), tuple(pieces))
        return sent.view(len(pieces), pieces[0].numel()).view(torch.uint8)

    @no_grad
    def decode_pieces(
        self, payloads: Tensor, targets: Sequence[Tensor], *, weight: float = 1.0, add: bool = False
    ) -> None:
        values = self._numbers(payloads.reshape(-1)).view(len(targets), *targets[0].shape)
        settle(targets, values.unbind(), weight, add)

    def _numbers(self, payload: Tensor) -> Tensor:
        import torch

        if payload.data_ptr() % self.itemsize or not payload.is_contiguous():
            payload = payload.clone()  # torch takes no number that begins in the middle of a word
        return payload.view(getattr(torch, self.dtype))


@dataclass(frozen=True, kw_only=True)
class Float32(Dense, kind="none", about="the piece, bit by bit, in fp32"):
    """Sends every bit."""

    itemsize = 4
    dtype = "float32"


@dataclass(frozen=True, kw_only=True)
class BFloat16(Dense, kind="bf16", about="the piece, rounded to bf16"):
    """Sends the upper half of each fp32 number, rounded to nearest, ties to even."""

    itemsize = 2
    dtype = "bfloat16"

    @property
    def size(self) -> str:
        return "16 bits"
