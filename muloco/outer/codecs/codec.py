"""What every codec does."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Codec(Protocol):
    """Turns a piece into bytes and back."""

    def payload_bytes(self, shape: Sequence[int]) -> int:
        """Size of the payload of a piece of that shape."""
        ...

    def encode(self, piece: Tensor) -> Tensor:
        """The payload: uint8 [payload_bytes(piece.shape)] on the piece's device, sharing no memory with it.

        Args:
            piece: any shape, strides and floating dtype; read as fp32.
        """
        ...

    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """What a payload says of a piece of that shape, on the payload's device; computed in fp32, then cast. Where the
        payload holds the numbers as they are, it may share its memory.

        Raises:
            ValueError: the payload is not uint8 [payload_bytes(shape)].
        """
        ...


def check_payload(payload: Tensor, expected: int, shape: Sequence[int]) -> None:
    """Refuses what cannot be the payload of a piece of that shape."""
    if payload.dtype != torch.uint8 or payload.shape != (expected,):
        raise ValueError(
            f"the payload of a piece of shape {tuple(shape)} must be uint8 [{expected}]; "
            f"got {str(payload.dtype).removeprefix('torch.')} {list(payload.shape)}"
        )
