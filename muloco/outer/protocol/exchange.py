"""Averages the workers' pseudogradients: a reduce-scatter to the owners of parts, and an all-gather of the means.

Every member owns a part of the fragment. It receives that part from all members, adds them up in rank order in fp32
and sends the mean back, so that 2 (K - 1) / K of a payload leave each worker, whatever K is. Both ways the parts go as
payloads of a codec; the dense one keeps every bit. The payloads for one member are sent together, sorted by size, shape
and place. All pieces of one codec and shape are encoded and decoded together, whichever member owns them.
"""

import hashlib
import hmac
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from muloco.failpoints import hit
from muloco.outer.codecs.channel import Channel, Encoder
from muloco.outer.codecs.compression import DENSE, Wire
from muloco.outer.protocol.transport import Round, Unverified

BATCH_BYTES = 16 * 2**20
"""Bytes of payload of one owner in a batch. If a single piece has more, the batch has as many bytes of every owner."""

MESSAGE_BYTES = 16 * 2**20
"""Largest number of bytes in a message of `gather_bytes`."""
LENGTH_BYTES = 8
"""Bytes that hold the length of a message."""


@dataclass(frozen=True)
class Piece:
    """The rows of one tensor that one member owns."""

    tensor: int
    """Index of the tensor in the fragment."""
    start: int
    """Index of its first element in the flat vector of the fragment."""
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """The view of it."""
        return flat[self.start : self.start + self.elements].view(self.shape)


def average(
    this_round: Round,
    flat: torch.Tensor,
    wire: Wire,
    weights: Sequence[int],
    *,
    channel: Channel | None = None,
    overwrite: bool = False,
) -> torch.Tensor:
    """Returns the weighted mean of the members' vectors, with the same bits on every member.

    Args:
        this_round: open round.
        flat: this member's fp32 vector of all tensors of the fragment, on the transport's device.
        wire: how the tensors in `flat` travel, the same on every member.
        weights: one a member, in rank order; those of weight 0 do not contribute.
        channel: what this member keeps of the fragment between rounds, to be committed by the caller. None: it keeps
            nothing, as a member that only carries the others' parts.
        overwrite: whether the mean may be written over `flat`, which then has no defined content if the round fails.
            Otherwise `flat` is not changed.

    Returns:
        fp32 vector of the shape of `flat`: `flat` itself with `overwrite`, or if there is one member and `wire` is
        exact; else a new one.

    Raises:
        ValueError: all weights are 0.
        TransportError: a member is gone or too slow.
    """
    total = sum(weights)
    if total <= 0:
        raise ValueError(f"the weights of a round must not sum to 0; got {list(weights)}")
    fractions = [weight / total for weight in weights]
    if channel is not None:
        channel.begin()
    if this_round.size == 1 and wire.exact:
        return flat
    mean = flat if overwrite else torch.empty_like(flat)
    (_reduce_at_owners if wire.reduce == "reselect" else _gather)(this_round, flat, mean, wire, fractions, channel)
    return mean


def bytes_sent(wire: Wire, members: int, rank: int) -> int:
    """Bytes of payload that one member's rank sends to others in a round; the headers of the round come on top."""
    sizes = [sum(_sizes(wire, pieces)) for pieces in split(wire.shapes, members)]
    if wire.reduce != "reselect":
        return (members - 1) * sum(_sizes(wire, split(wire.shapes, 1)[0]))
    return sum(sizes) - sizes[rank] + (members - 1) * sizes[rank]


def ring_bytes(wire: Wire, members: int) -> float:
    """Bytes that each member would send in an fp32 ring all-reduce of the same elements."""
    return 2 * (members - 1) / members * 4 * sum(map(math.prod, wire.shapes))


# Both ways of averaging write `mean` piece by piece. `flat` may be the same memory, so a piece is written only after
# its last use: this member has sent it, and by the next exchange all others have read what it sent.


def _reduce_at_owners(
    this_round: Round,
    flat: torch.Tensor,
    mean: torch.Tensor,
    wire: Wire,
    fractions: Sequence[float],
    channel: Channel | None,
) -> None:
    sent, owned = (None, None) if channel is None else (channel.sent, channel.owned)
    for batch in _batches(split(wire.shapes, this_round.size), wire):
        mine = batch[this_round.rank]
        sizes = [sum(_sizes(wire, pieces)) for pieces in batch]
        outgoing = _encode(batch, flat, wire, sent)
        received = this_round.exchange(outgoing, [sizes[this_round.rank]] * this_round.size)
        received[this_round.rank] = _apart(received[this_round.rank], mean)
        _accumulate(mean, mine, received, wire, fractions)
        del outgoing, received
        (payload,) = _encode([mine], mean, wire, owned)
        hit("gather")
        _decode(batch, this_round.exchange([payload] * this_round.size, sizes), wire, mean)


def _gather(
    this_round: Round,
    flat: torch.Tensor,
    mean: torch.Tensor,
    wire: Wire,
    fractions: Sequence[float],
    channel: Channel | None,
) -> None:
    for (pieces,) in _batches(split(wire.shapes, 1), wire):
        (payload,) = _encode([pieces], flat, wire, None if channel is None else channel.sent)
        payload = _apart(payload, mean)  # the others read it while this member writes `mean`
        hit("gather")
        received = this_round.exchange([payload] * this_round.size, [payload.numel()] * this_round.size)
        _accumulate(mean, pieces, received, wire, fractions)
        if wire.reduce == "requantize":
            _decode([pieces], _encode([pieces], mean, wire, None), wire, mean)


def _apart(payload: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Returns the payload, or a copy if it shares memory with `vector`, which is about to be overwritten: dense pieces
    are sent as views."""
    same = payload.untyped_storage().data_ptr() == vector.untyped_storage().data_ptr()
    return payload.clone() if same else payload


def gather_bytes(this_round: Round, data: bytes) -> list[bytes]:
    """Exchanges messages and returns every member's message, in rank order. The length and the digest of each message
    are sent before it, with the round's tag over them, so that no length is used before it is authenticated.

    Args:
        this_round: open round.
        data: this member's message, of 1 to `MESSAGE_BYTES` bytes.

    Raises:
        ValueError: `data` is empty or too long.
        Unverified: messages arrived damaged, or were not made by members.
        TransportError: a member is gone or too slow.
    """
    if not 0 < len(data) <= MESSAGE_BYTES:
        raise ValueError(f"a message must have 1 to {MESSAGE_BYTES} bytes; got {len(data)}")
    number = this_round.exchanges
    said = len(data).to_bytes(LENGTH_BYTES, "big") + hashlib.sha256(data).digest()
    ahead = _as_tensor(said + this_round.tag(this_round.rank, number, said), this_round.wire)
    announced = [
        _as_bytes(part) for part in this_round.exchange([ahead] * this_round.size, [ahead.numel()] * this_round.size)
    ]
    tags = [told[len(said) :] for told in announced]
    announced = [told[: len(said)] for told in announced]
    _insist(
        this_round,
        [r for r, told in enumerate(announced) if not hmac.compare_digest(tags[r], this_round.tag(r, number, told))],
        lambda rank: "sent a message without the tag of the run, or it arrived damaged",
    )
    lengths = [int.from_bytes(told[:LENGTH_BYTES], "big") for told in announced]
    _insist(
        this_round,
        [rank for rank, length in enumerate(lengths) if not 0 < length <= MESSAGE_BYTES],
        lambda rank: f"announced a message of {lengths[rank]} bytes, not of 1 to {MESSAGE_BYTES}",
    )
    messages = [
        _as_bytes(part) for part in this_round.exchange([_as_tensor(data, this_round.wire)] * this_round.size, lengths)
    ]
    _insist(
        this_round,
        [r for r, told in enumerate(announced) if hashlib.sha256(messages[r]).digest() != told[LENGTH_BYTES:]],
        lambda rank: "sent a message that arrived damaged",
    )
    return messages


def _insist(this_round: Round, bad: Sequence[int], how: Callable[[int], str]) -> None:
    """Raises Unverified if there are bad members."""
    if bad:
        raise Unverified("; ".join(f"{this_round.call(rank)} {how(rank)}" for rank in bad), bad)


def _as_tensor(data: bytes, device: torch.device) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device)


def _as_bytes(data: torch.Tensor) -> bytes:
    return data.cpu().numpy().tobytes()


def split(shapes: Sequence[tuple[int, ...]], members: int) -> list[list[Piece]]:
    """Returns what each member owns: consecutive parts of nearly equal size, cut between rows (first dimension) of a
    tensor."""
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


def _batches(owned: Sequence[Sequence[Piece]], wire: Wire) -> Iterator[list[Sequence[Piece]]]:
    """Yields batches: for each owner, the pieces that are exchanged together. Large pieces come first, and pieces of
    one shape follow each other. The parts of all owners in a batch have about the same size, so that no member waits
    for one that has more to send."""
    owned = [sorted(pieces, key=lambda piece: (-piece.elements, piece.shape, piece.start)) for pieces in owned]
    done = [0] * len(owned)
    while any(at < len(pieces) for at, pieces in zip(done, owned, strict=True)):
        rest = [pieces[at:] for at, pieces in zip(done, owned, strict=True)]
        room = max(BATCH_BYTES, *(size for pieces in rest for size in _sizes(wire, pieces[:1])))
        batch = [_fitting(pieces, wire, room) for pieces in rest]
        done = [at + len(pieces) for at, pieces in zip(done, batch, strict=True)]
        yield batch


def _fitting(pieces: Sequence[Piece], wire: Wire, room: int) -> Sequence[Piece]:
    """Returns the first pieces, whose payloads together fill `room` bytes."""
    ends = itertools.accumulate(_sizes(wire, pieces))
    return pieces[: sum(end <= room for end in ends)]


def _sizes(wire: Wire, pieces: Sequence[Piece]) -> list[int]:
    return [wire.codecs[piece.tensor].payload_bytes(piece.shape) for piece in pieces]


def _alike(batch: Sequence[Sequence[Piece]], wire: Wire) -> dict[tuple, list[tuple[int, int]]]:
    """Returns the places (owner, number) of the pieces in a batch, grouped by codec and shape."""
    places: dict[tuple, list[tuple[int, int]]] = {}
    for owner, pieces in enumerate(batch):
        for number, piece in enumerate(pieces):
            places.setdefault((wire.codecs[piece.tensor], piece.shape), []).append((owner, number))
    return places


def _encode(
    batch: Sequence[Sequence[Piece]], flat: torch.Tensor, wire: Wire, encoder: Encoder | None
) -> list[torch.Tensor]:
    """Returns one vector for each owner: the payloads of its pieces, one after the other."""
    nothing = flat.new_empty(0, dtype=torch.uint8)
    payloads = [[nothing] * len(pieces) for pieces in batch]
    for (codec, _), places in _alike(batch, wire).items():
        pieces = [batch[owner][number] for owner, number in places]
        values = [piece.of(flat) for piece in pieces]
        if codec == DENSE:
            encoded = [value.view(-1).view(torch.uint8) for value in values]  # as `encode_pieces`, without a copy
        elif encoder is None:
            encoded = list(codec.encode_pieces(values))
        else:
            encoded = list(encoder.encode(codec, values, [piece.start for piece in pieces]))
        for (owner, number), payload in zip(places, encoded, strict=True):
            payloads[owner][number] = payload
    return [parts[0] if len(parts) == 1 else torch.cat([nothing, *parts]) for parts in payloads]


def _decode(
    batch: Sequence[Sequence[Piece]],
    received: Sequence[torch.Tensor],
    wire: Wire,
    out: torch.Tensor,
    *,
    weight: float = 1.0,
    add: bool = False,
) -> None:
    """Overwrites these pieces of `out` by `weight` x the decoded payloads of their owners, or adds this to them."""
    payloads = [
        part.split(_sizes(wire, pieces)) if pieces else () for pieces, part in zip(batch, received, strict=True)
    ]
    for (codec, _), places in _alike(batch, wire).items():
        parts = [payloads[owner][number] for owner, number in places]
        targets = [batch[owner][number].of(out) for owner, number in places]
        together = parts[0][None] if len(parts) == 1 else torch.stack(parts)
        codec.decode_pieces(together, targets, weight=weight, add=add)


def _accumulate(
    mean: torch.Tensor,
    pieces: Sequence[Piece],
    received: Sequence[torch.Tensor],
    wire: Wire,
    fractions: Sequence[float],
) -> None:
    """The pieces of `mean` become the sum, in rank order, of what came from each member times its fraction."""
    contributing = [(fraction, payload) for fraction, payload in zip(fractions, received, strict=True) if fraction]
    for number, (fraction, payload) in enumerate(contributing):
        _decode([pieces], [payload], wire, mean, weight=fraction, add=number > 0)
