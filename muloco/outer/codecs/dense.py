"""Every element as a floating-point number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from muloco.outer.codecs.codec import Codec, settle


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
        flat = payloads.reshape(-1)
        if flat.data_ptr() % self.wire.itemsize or not flat.is_contiguous():
            flat = flat.clone()  # torch takes no number that begins in the middle of a word
        values = flat.view(self.wire).view(len(targets), *targets[0].shape).to(torch.float32)
        settle(targets, values.unbind(), weight, add)
