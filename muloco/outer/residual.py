"""What compression has left of the elements of a fragment, from round to round (PAPER 3.3)."""

import torch

from muloco.outer import error_feedback
from muloco.outer.codecs import Codec


class Residual:
    """The residuals of the pieces that one rank encodes, kept by element: when the pieces change because workers come
    or go, an element that is still encoded here keeps its residual, and those of the others are dropped and counted.

    Nothing changes before `commit`: a round that fails is tried again from the same residuals.

    Args:
        decay: share that is kept from one round to the next.
        alpha: share of what was sent that is taken off.
        gain: factor on what is encoded.
    """

    def __init__(self, *, decay: float, alpha: float, gain: float = 1.0):
        self.dropped = 0
        """Elements whose residual was given up, so far."""
        self._decay = decay
        self._alpha = alpha
        self._gain = gain
        self._kept: dict[int, torch.Tensor] = {}  # flat, by where it starts in the fragment
        self._new: dict[int, torch.Tensor] = {}

    def begin(self) -> None:
        """A round begins, or is tried again."""
        self._new = {}

    def encode(self, codec: Codec, values: torch.Tensor, start: int) -> torch.Tensor:
        """The payload of a piece, fp32 of any shape, whose elements are at `start` in the fragment, and of what was
        left of them."""
        left = self._of(start, values.numel(), values.device).view(values.shape)
        payload, new = error_feedback.encode(codec, values, left, self._decay, self._alpha, self._gain)
        self._new[start] = new.flatten()
        return payload

    def commit(self) -> None:
        """The round has committed."""
        before = sum(part.numel() for part in self._kept.values())
        self.dropped += before - sum(self._overlap(start, part.numel()) for start, part in self._new.items())
        self._kept, self._new = self._new, {}

    def clear(self) -> None:
        """Nothing is left of anything."""
        self._kept, self._new = {}, {}

    def to_vector(self, elements: int, device: torch.device) -> torch.Tensor:
        """fp32 [elements] of the fragment: what is left of each, 0 where this rank knows nothing."""
        return self._of(0, elements, device).clone()

    def load_vector(self, vector: torch.Tensor) -> None:
        """The reverse of `to_vector`."""
        self._kept = {0: vector.clone()}

    def _of(self, start: int, elements: int, device: torch.device) -> torch.Tensor:
        same = self._kept.get(start)
        if same is not None and same.numel() == elements:
            return same
        found = torch.zeros(elements, device=device)
        for at, part in self._kept.items():
            low, high = max(start, at), min(start + elements, at + part.numel())
            if low < high:
                found[low - start : high - start] = part[low - at : high - at]
        return found

    def _overlap(self, start: int, elements: int) -> int:
        return sum(max(0, min(start + elements, at + part.numel()) - max(start, at)) for at, part in self._kept.items())
