"""Every element as a floating-point number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from muloco.outer.codecs.codec import Codec, check_payload, settle


@dataclass(frozen=True)
class Dense(Codec):
    """See `muloco.outer.codecs`: kinds `none` (fp32) and `bf16`."""

    wire: torch.dtype
    """What each element is sent as."""

    def payload_bytes(self, shape: Sequence[int]) -> int:
        return math.prod(shape) * self.wire.itemsize

    @torch.no_grad()
    def encode_pieces(self, pieces: Sequence[Tensor]) -> Tensor:
        sent = torch.empty(len(pieces), *pieces[0].shape, dtype=self.wire, device=pieces[0].device)
        torch._foreach_copy_(sent.unbind(), tuple(pieces))
        return sent.view(len(pieces), pieces[0].numel()).view(torch.uint8)

    @torch.no_grad()
    def decode_pieces(
        self, payloads: Tensor, targets: Sequence[Tensor], *, weight: float = 1.0, add: bool = False
    ) -> None:
        values = self._numbers(payloads.reshape(-1)).view(len(targets), *targets[0].shape)
        settle(targets, values.unbind(), weight, add)

    @torch.no_grad()
    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Decodes as `Codec.decode` does; an fp32 result may share memory with the payload."""
        check_payload(payload, self.payload_bytes(shape), shape)
        return self._numbers(payload).view(tuple(shape)).to(torch.float32).to(dtype)

    def _numbers(self, payload: Tensor) -> Tensor:
        if payload.data_ptr() % self.wire.itemsize or not payload.is_contiguous():
            payload = payload.clone()  # torch takes no number that begins in the middle of a word
        return payload.view(self.wire)
