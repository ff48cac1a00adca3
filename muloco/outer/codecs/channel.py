"""The state that a rank keeps for a fragment between rounds: residuals of error feedback, and the states of codecs."""

import io
from collections.abc import Iterator, Mapping, Sequence

import torch

from muloco.outer.codecs import Codec, error_feedback
from muloco.outer.codecs.codec import StatefulCodec
from muloco.outer.codecs.compression import Compression, Wire

Stacks = dict[tuple[int, ...], torch.Tensor]
"""Residuals of pieces that were encoded together, fp32 [pieces, elements], by the starts of the pieces in the
fragment."""


class Channel:
    """Encodes a fragment, and keeps its state on this rank from round to round.

    A round is `begin`, any number of `encode`, and `commit`. Nothing that is kept changes before `commit`: a round that
    fails is tried again from what was there.

    Args:
        compression: of the run.
        tensors: of the fragment, by name.
    """

    def __init__(self, compression: Compression, tensors: Mapping[str, torch.Tensor]):
        self.wire: Wire = compression.wire(tensors)

        def end(gain: float) -> "Encoder":
            feedback = (compression.error_decay, compression.error_alpha, gain) if compression.error_feedback else None
            return Encoder(feedback)

        self.sent = end(compression.error_gain)
        """Encodes this worker's pseudogradients."""
        self.owned = end(1.0)
        """Encodes the means that this worker owns, with `reselect`."""
        self._encoders = (
            {"sent": self.sent, "owned": self.owned} if self.wire.reduce == "reselect" else {"sent": self.sent}
        )

    @property
    def stateful(self) -> bool:
        """Whether a codec keeps a state."""
        return any(isinstance(codec, StatefulCodec) for codec in self.wire.codecs)

    def begin(self) -> None:
        """A round begins, or is tried again."""
        for encoder in self._encoders.values():
            encoder.begin()

    def commit(self) -> None:
        """The round has committed."""
        for encoder in self._encoders.values():
            encoder.commit()

    def clear(self) -> None:
        """Forgets everything that is kept."""
        for encoder in self._encoders.values():
            encoder.clear()

    def residuals(self, device: torch.device) -> dict[str, torch.Tensor]:
        """The residuals of error feedback by kind, `sent` and `owned`: fp32 vectors of the fragment, 0 where this rank
        has none. Without error feedback there are no kinds."""
        elements = sum(torch.Size(shape).numel() for shape in self.wire.shapes)
        return {
            kind: encoder.residual.to_vector(elements, device)
            for kind, encoder in self._encoders.items()
            if encoder.residual is not None
        }

    def load_residuals(self, vectors: Mapping[str, torch.Tensor]) -> None:
        """Continues with what `residuals` returned."""
        for kind, encoder in self._encoders.items():
            if encoder.residual is not None:
                encoder.residual.load_vector(vectors[kind])

    def codec_states(self) -> bytes:
        """The states of the codecs, of whatever pieces this rank encodes, as `torch.save` writes them."""
        buffer = io.BytesIO()
        torch.save({kind: encoder.states for kind, encoder in self._encoders.items()}, buffer)
        return buffer.getvalue()

    def load_codec_states(self, states: bytes, device: torch.device) -> None:
        """Continues with what `codec_states` returned."""
        loaded = torch.load(io.BytesIO(states), map_location=device, weights_only=True)
        for kind, encoder in self._encoders.items():
            encoder.states = loaded[kind]


class Encoder:
    """Encodes the pieces that a rank sends in one direction, with the residuals and the codecs' states that belong to
    them.

    A state is kept by piece: a piece that starts elsewhere or has another size in the next round begins with the first
    state of its codec, and what was kept is dropped and counted. Residuals are kept by element, see `Residual`.

    Args:
        feedback: decay, alpha and gain of error feedback, see `error_feedback.encode_pieces`; None: without.
    """

    def __init__(self, feedback: tuple[float, float, float] | None):
        self.residual = None if feedback is None else Residual()
        self.states: dict[int, torch.Tensor] = {}
        """The state of each piece whose codec keeps one, fp32 vectors, by the start of the piece in the fragment."""
        self.dropped_states = 0
        """Number of states that have been given up so far."""
        self._feedback = feedback or (0.0, 0.0, 1.0)
        self._new_states: dict[int, torch.Tensor] = {}

    def begin(self) -> None:
        """A round begins, or is tried again."""
        self._new_states = {}
        if self.residual is not None:
            self.residual.begin()

    def encode(self, codec: Codec, pieces: Sequence[torch.Tensor], starts: Sequence[int]) -> torch.Tensor:
        """Encodes fp32 pieces of one shape together.

        Args:
            codec: see `build_codec`.
            pieces: at least one.
            starts: index in the fragment of the first element of each piece.

        Returns:
            payloads, uint8 [pieces, bytes].
        """

        def encode(values: Sequence[torch.Tensor]) -> torch.Tensor:
            if not isinstance(codec, StatefulCodec) or not codec.state_elements(values[0].shape):
                return codec.encode_pieces(values)
            payloads, states = codec.encode_from(values, self._states_of(codec, values[0], starts))
            self._new_states |= zip(starts, states.unbind(), strict=True)
            return payloads

        if self.residual is None:
            return encode(pieces)
        left = self.residual.of(tuple(starts), pieces[0])
        payloads, new = error_feedback.encode_pieces(codec, pieces, left, *self._feedback, encode=encode)
        self.residual.renew(tuple(starts), new)
        return payloads

    def commit(self) -> None:
        """The round has committed."""
        self.dropped_states += sum(
            start not in self._new_states or self._new_states[start].shape != state.shape
            for start, state in self.states.items()
        )
        self.states, self._new_states = self._new_states, {}
        if self.residual is not None:
            self.residual.commit()

    def clear(self) -> None:
        """Forgets residuals and states."""
        self.states, self._new_states = {}, {}
        if self.residual is not None:
            self.residual.clear()

    def _states_of(self, codec: StatefulCodec, piece: torch.Tensor, starts: Sequence[int]) -> torch.Tensor:
        first = codec.first_state(piece.shape, piece.device)
        kept = [self.states.get(start, first) for start in starts]
        return torch.stack([state if state.shape == first.shape else first for state in kept])


class Residual:
    """The residuals of the pieces that one rank encodes, kept by element: when the pieces change because workers come
    or go, an element that is still encoded here keeps its residual, and those of the others are dropped and counted.

    Nothing changes before `commit`: a round that fails is tried again from the same residuals.
    """

    def __init__(self) -> None:
        self.dropped = 0
        """Number of elements whose residual has been given up so far."""
        self._kept: Stacks = {}
        self._new: Stacks = {}

    def begin(self) -> None:
        """A round begins, or is tried again."""
        self._new = {}

    def renew(self, starts: tuple[int, ...], left: torch.Tensor) -> None:
        """Takes the new residuals of pieces, fp32 [pieces, *shape], which are kept once the round has committed."""
        self._new[starts] = left.reshape(len(starts), -1)

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
        """Forgets everything."""
        self._kept, self._new = {}, {}

    def of(self, starts: tuple[int, ...], piece: torch.Tensor) -> torch.Tensor:
        """Returns the residuals of pieces that start there and are shaped like `piece`, fp32 [pieces, *shape]."""
        return self._of(starts, piece.numel(), piece.device).view(len(starts), *piece.shape)

    def to_vector(self, elements: int, device: torch.device) -> torch.Tensor:
        """Returns the residual of each element of the fragment, fp32 [elements], 0 where this rank has none."""
        return self._of((0,), elements, device)[0].clone()

    def load_vector(self, vector: torch.Tensor) -> None:
        """Replaces the residuals by those that `to_vector` returned."""
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
        """Yields the elements of a piece that are kept: from, to, and where the part that has them starts."""
        for at, part in _pieces(self._kept):
            low, high = max(start, at), min(start + elements, at + part.numel())
            if low < high:
                yield low, high, at, part


def _pieces(stacks: Mapping[tuple[int, ...], torch.Tensor]) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields the start of each piece and its residual as a vector."""
    for starts, parts in stacks.items():
        yield from zip(starts, parts.unbind(), strict=True)
