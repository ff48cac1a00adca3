"""The mean of the workers' pseudogradients: to each part's owner, mean there, and back to all.

Every member owns a part of the fragment. It receives that part from all members, adds them up in rank order in fp32
and sends the mean back, so that 2 (K - 1) / K of a payload leave each worker, whatever K is. Both ways the parts go as
payloads of a codec; the dense one keeps every bit.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from muloco.outer.transport import Round
from muloco.phases import reach

BATCH_BYTES = 16 * 2**20
"""Pieces of one owner that are worked on together, as fp32; a larger piece is on its own."""


class Codec(Protocol):
    """See `muloco.outer.codecs`."""

    def encode(self, piece: torch.Tensor) -> torch.Tensor: ...

    def decode(self, payload: torch.Tensor, shape: Sequence[int], dtype: torch.dtype = ...) -> torch.Tensor: ...

    def payload_bytes(self, shape: Sequence[int]) -> int: ...


@dataclass(frozen=True)
class Piece:
    """The rows of one tensor that one member owns."""

    tensor: int
    """Index of the tensor in the fragment."""
    start: int
    """Where it starts in the fragment's flat vector, in elements."""
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """The view of it."""
        return flat[self.start : self.start + self.elements].view(self.shape)


def average(
    round: Round,
    flat: torch.Tensor,
    shapes: Sequence[tuple[int, ...]],
    weights: Sequence[int],
    codecs: Sequence[Codec],
) -> torch.Tensor:
    """The weighted mean of the members' vectors; the same bits on every member.

    Args:
        round: open round.
        flat: this member's fp32 vector of all tensors of the fragment, on the transport's device; left alone.
        shapes: of the tensors in `flat`, in order; the same on every member.
        weights: one a member, in rank order; those of weight 0 do not contribute.
        codecs: one a tensor.

    Returns:
        fp32 vector like `flat`.

    Raises:
        ValueError: all weights are 0.
        TransportError: a member is gone or too slow.
    """
    total = sum(weights)
    if total <= 0:
        raise ValueError(f"the weights of a round must not sum to 0; got {list(weights)}")
    shares = [weight / total for weight in weights]
    mean = torch.empty_like(flat)
    owned = [list(_batches(pieces)) for pieces in split(shapes, round.size)]
    for batch in itertools.zip_longest(*owned, fillvalue=()):
        mine = batch[round.rank]
        bytes_of = [sum(codecs[p.tensor].payload_bytes(p.shape) for p in pieces) for pieces in batch]
        outgoing = [_encode(pieces, flat, codecs) for pieces in batch]
        received = round.exchange(outgoing, [bytes_of[round.rank]] * round.size)
        _accumulate(mean, mine, received, shares, codecs)
        payload = _encode(mine, mean, codecs)
        reach("gather")
        for pieces, part in zip(batch, round.exchange([payload] * round.size, bytes_of), strict=True):
            for piece, values in _decode(pieces, part, codecs):
                piece.of(mean).copy_(values)
    return mean


def gather_bytes(round: Round, data: bytes) -> list[bytes]:
    """Every member's `data`, of any length above 0, in rank order."""
    device = round.device
    length = torch.tensor([len(data)], device=device).view(torch.uint8)
    lengths = round.exchange([length] * round.size, [length.numel()] * round.size)
    sizes = [int(part.clone().view(torch.int64)) for part in lengths]
    own = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device)
    return [bytes(part.cpu().numpy()) for part in round.exchange([own] * round.size, sizes)]


def split(shapes: Sequence[tuple[int, ...]], members: int) -> list[list[Piece]]:
    """What each member owns: consecutive parts of nearly equal size, cut between rows (first dimension) of a tensor."""
    total = sum(map(math.prod, shapes))
    owned: list[list[Piece]] = [[] for _ in range(members)]
    start = 0
    for index, shape in enumerate(shapes):
        rows, width = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
        if rows * width == 0:
            continue
        cuts = [min(rows, max(0, _nearest(total * m / members - start, width))) for m in range(members)]
        for member, (first, last) in enumerate(zip(cuts, [*cuts[1:], rows], strict=True)):
            if first < last:
                part = (last - first, *shape[1:]) if shape else ()
                owned[member].append(Piece(index, start + first * width, part))
        start += rows * width
    return owned


def _nearest(value: float, unit: int) -> int:
    """How many units are nearest to `value`."""
    return math.floor(value / unit + 0.5)


def _batches(pieces: Sequence[Piece]) -> Iterator[Sequence[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        if batch and size + 4 * piece.elements > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(piece)
        size += 4 * piece.elements
    if batch:
        yield batch


def _encode(pieces: Sequence[Piece], flat: torch.Tensor, codecs: Sequence[Codec]) -> torch.Tensor:
    payloads = [codecs[piece.tensor].encode(piece.of(flat)) for piece in pieces]
    return torch.cat(payloads) if payloads else flat.new_empty(0, dtype=torch.uint8)


def _decode(
    pieces: Sequence[Piece], payload: torch.Tensor, codecs: Sequence[Codec]
) -> Iterator[tuple[Piece, torch.Tensor]]:
    offset = 0
    for piece in pieces:
        codec = codecs[piece.tensor]
        size = codec.payload_bytes(piece.shape)
        yield piece, codec.decode(payload[offset : offset + size], piece.shape)
        offset += size


def _accumulate(
    mean: torch.Tensor,
    mine: Sequence[Piece],
    received: Sequence[torch.Tensor],
    shares: Sequence[float],
    codecs: Sequence[Codec],
) -> None:
    for piece in mine:
        piece.of(mean).zero_()
    for share, payload in zip(shares, received, strict=True):
        if share:
            for piece, values in _decode(mine, payload, codecs):
                piece.of(mean).add_(values, alpha=share)
