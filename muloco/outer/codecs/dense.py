"""Every element as a floating-point number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from muloco.outer.codecs.codec import check_payload


@dataclass(frozen=True)
class Dense:
    """See `muloco.outer.codecs`: kinds `none` (fp32) and `bf16`."""

    wire: torch.dtype
    """What each element is sent as."""

    def payload_bytes(self, shape: Sequence[int]) -> int:
        return math.prod(shape) * self.wire.itemsize

    @torch.no_grad()
    def encode(self, piece: Tensor) -> Tensor:
        return piece.detach().to(self.wire, memory_format=torch.contiguous_format, copy=True).view(-1).view(torch.uint8)

    @torch.no_grad()
    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        check_payload(payload, self.payload_bytes(shape), shape)
        if payload.data_ptr() % self.wire.itemsize or not payload.is_contiguous():
            payload = payload.clone()  # torch takes no number that begins in the middle of a word
        return payload.view(self.wire).view(tuple(shape)).to(torch.float32).to(dtype)
