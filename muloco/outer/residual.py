"""What compression has left of the elements of a fragment, from round to round (PAPER 3.3)."""

from collections.abc import Iterator, Mapping, Sequence

import torch

from muloco.outer import error_feedback
from muloco.outer.codecs import Codec

Stacks = dict[tuple[int, ...], torch.Tensor]
"""Residuals of pieces that were encoded together, fp32 [pieces, elements], by the starts of the pieces in the
fragment."""


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
        self._kept: Stacks = {}
        self._new: Stacks = {}

    def begin(self) -> None:
        """A round begins, or is tried again."""
        self._new = {}

    def encode(self, codec: Codec, pieces: Sequence[torch.Tensor], starts: Sequence[int]) -> torch.Tensor:
        """Encodes fp32 pieces of one shape together with their residuals.

        Args:
            codec: see `build_codec`.
            pieces: at least one.
            starts: index in the fragment of the first element of each piece.

        Returns:
            payloads, uint8 [pieces, bytes].
        """
        shape, elements = pieces[0].shape, pieces[0].numel()
        left = self._of(tuple(starts), elements, pieces[0].device).view(len(pieces), *shape)
        payloads, new = error_feedback.encode_pieces(codec, pieces, left, self._decay, self._alpha, self._gain)
        self._new[tuple(starts)] = new.view(len(pieces), elements)
        return payloads

    def commit(self) -> None:
        """The round has committed."""
        if self._kept.keys() != self._new.keys():
            before = sum(part.numel() for part in self._kept.values())
            self.dropped += before - sum(
                high - low
                for start, part in _pieces(self._new)
                for low, high, _, _ in self._overlaps(start, part.numel())
            )
        self._kept, self._new = self._new, {}

    def clear(self) -> None:
        """Nothing is left of anything."""
        self._kept, self._new = {}, {}

    def to_vector(self, elements: int, device: torch.device) -> torch.Tensor:
        """fp32 [elements] of the fragment: what is left of each, 0 where this rank knows nothing."""
        return self._of((0,), elements, device)[0].clone()

    def load_vector(self, vector: torch.Tensor) -> None:
        """The reverse of `to_vector`."""
        self._kept = {(0,): vector[None].clone()}

    def _of(self, starts: tuple[int, ...], elements: int, device: torch.device) -> torch.Tensor:
        """Returns the residuals of pieces that start there, fp32 [pieces, elements] on `device`."""
        same = self._kept.get(starts)
        if same is not None and same.shape[1] == elements:
            return same
        found = torch.zeros(len(starts), elements, device=device)
        for row, start in zip(found, starts, strict=True):
            for low, high, at, part in self._overlaps(start, elements):
                row[low - start : high - start] = part[low - at : high - at]
        return found

    def _overlaps(self, start: int, elements: int) -> Iterator[tuple[int, int, int, torch.Tensor]]:
        """Which elements of a piece are kept: from, to, and where the part that has them starts."""
        for at, part in _pieces(self._kept):
            low, high = max(start, at), min(start + elements, at + part.numel())
            if low < high:
                yield low, high, at, part


def _pieces(stacks: Mapping[tuple[int, ...], torch.Tensor]) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields the start of each piece and its residual as a vector."""
    for starts, parts in stacks.items():
        yield from zip(starts, parts.unbind(), strict=True)
