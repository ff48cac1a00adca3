"""What every codec does."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor


class Codec(ABC):
    """Turns pieces into bytes and back: one piece, or many pieces of one shape. Many pieces take as many launches of
    GPU kernels as one, and give the same bits as each one alone."""

    @abstractmethod
    def payload_bytes(self, shape: Sequence[int]) -> int:
        """Size of the payload of a piece of that shape."""

    @abstractmethod
    def encode_pieces(self, pieces: Sequence[Tensor]) -> Tensor:
        """Returns the payloads of pieces of one shape: uint8 [pieces, payload_bytes(shape)] on their device, in new
        memory.

        Args:
            pieces: at least one; of any shape, strides and floating dtype; they are read as fp32.
        """

    @abstractmethod
    def decode_pieces(
        self, payloads: Tensor, targets: Sequence[Tensor], *, weight: float = 1.0, add: bool = False
    ) -> None:
        """Overwrites the targets by `weight` x the decoded payloads, computed in fp32, or adds this to them.

        Args:
            payloads: uint8 [pieces, payload_bytes(shape)], on the device of the targets.
            targets: contiguous fp32 tensors of the shape of the pieces, all in one storage, without overlap.
            weight: factor on the decoded values.
            add: whether to add to the targets instead of overwriting them.
        """

    @torch.no_grad()
    def encode(self, piece: Tensor) -> Tensor:
        """Returns the payload of one piece, uint8 [payload_bytes(piece.shape)]; see `encode_pieces`."""
        return self.encode_pieces([piece])[0]

    @torch.no_grad()
    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Decodes a payload to a new tensor of that shape on the device of the payload; computed in fp32, then cast.

        Raises:
            ValueError: the payload is not uint8 [payload_bytes(shape)].
        """
        check_payload(payload, self.payload_bytes(shape), shape)
        decoded = torch.empty(tuple(shape), device=payload.device)
        self.decode_pieces(payload[None], [decoded])
        return decoded.to(dtype)


def check_payload(payload: Tensor, expected: int, shape: Sequence[int]) -> None:
    """Refuses what cannot be the payload of a piece of that shape."""
    if payload.dtype != torch.uint8 or payload.shape != (expected,):
        raise ValueError(
            f"the payload of a piece of shape {tuple(shape)} must be uint8 [{expected}]; "
            f"got {str(payload.dtype).removeprefix('torch.')} {list(payload.shape)}"
        )


def settle(targets: Sequence[Tensor], values: Sequence[Tensor], weight: float, add: bool) -> None:
    """Overwrites the targets by `weight` x `values`, or adds this to them, as `Codec.decode_pieces` does. The values
    have the shapes of the targets and any floating dtype."""
    targets, values = tuple(targets), tuple(values)
    if add:
        torch._foreach_add_(targets, [value.float() for value in values], alpha=weight)
    elif len(targets) == 1 and weight != 1:
        torch.mul(values[0].float(), weight, out=targets[0])
    else:
        torch._foreach_copy_(targets, values)
        if weight != 1:
            torch._foreach_mul_(targets, weight)
