"""A round over a wire: the bytes of its exchanges, their seals, and its vote."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from muloco.outer.protocol.answers import COMMITTED, FAILED, IN_DOUBT, VOTING
from muloco.outer.protocol.authentication import TAG_BYTES, Field
from muloco.outer.protocol.reachability import StaysOut
from muloco.outer.protocol.seal import Seal, contents
from muloco.outer.protocol.transport import TransportError, Unverified
from muloco.outer.protocol.wire import CUT_OFF

if TYPE_CHECKING:
    from muloco.outer.protocol.peer_transport import PeerTransport

logger = logging.getLogger(__name__)

UNHEARD_SECONDS = 1.0
"""Seconds after which a rank in doubt concludes that peers that still vote have not received its own vote."""
CHUNK_BYTES = 16 * 2**20
"""Most bytes that one worker sends to another at once: the exchange timeout guards one such chunk."""
AGAIN_SECONDS = 0.05
"""Pause before others are asked again for the outcome of a round."""


class PeerRound:
    """See `muloco.outer.protocol.transport.Round`."""

    def __init__(self, transport: "PeerTransport", step: int, failure: TransportError | None):
        group = transport.group
        self.device = transport.device
        self.wire = transport.staging.wire
        self.rank = group.place
        self.size = group.size
        self.workers = group.workers if failure is None else ()
        self.bytes_sent = 0
        self.exchanges = 0
        self.strangers = group.strangers
        self.failure = failure
        """Reason why nothing can be exchanged any more; None if it can."""
        self._sent = [Seal() for _ in range(self.size)]
        self._received = [Seal() for _ in range(self.size)]
        self._arrived: list[torch.Tensor] = []
        """Data of the last chunk, which is added to the seals while the next chunk is on its way."""
        self._transport = transport
        self._step = step

    @property
    def name(self) -> str:
        return self._transport.round_name

    def exchange(self, outgoing: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        self._insist_on_connection()
        self.exchanges += 1
        own = outgoing[self.rank]  # stays here
        outgoing = [part[:0] if r == self.rank else part for r, part in enumerate(outgoing)]
        sizes = [0 if r == self.rank else size for r, size in enumerate(sizes)]
        longest = max([*sizes, *(part.numel() for part in outgoing)])
        chunks = [
            self._exchange_chunk(
                [part[start : start + CHUNK_BYTES] for part in outgoing],
                [min(CHUNK_BYTES, max(0, size - start)) for size in sizes],
                own.device,
            )
            for start in range(0, longest, CHUNK_BYTES)
        ]
        if len(chunks) == 1:
            received = chunks[0]
        else:
            received = [torch.cat([chunk[r] for chunk in chunks]) if chunks else own[:0] for r in range(self.size)]
        received[self.rank] = own
        return received

    def tag(self, rank: int, number: int, data: bytes) -> bytes:
        self._insist_on_connection()  # without a connection there may be no key
        return self._tag("message", self.name, number, rank, data)

    def call(self, rank: int) -> str:
        peers = self._transport.peers
        return self._transport.group.call(rank) + (f" at {peers[rank]}" if peers else "")

    def vote(self, ok: bool) -> bool:
        transport, name = self._transport, self.name
        if ok:
            try:
                self._compare_seals(name)
            except TransportError as error:
                logger.warning("sync after step %d: %s", self._step, error)
                ok = False
        ok = ok and transport.answers.begin_vote(name)
        if not ok:
            self._release_others()  # at once: other ranks of this worker may wait for ranks that wait for this one
        ok = transport.all_ranks(ok)
        committed = False
        if ok:
            try:
                self._exchange_votes(name)
                committed = True
            except TransportError as error:
                logger.warning("sync after step %d: %s; asking the others whether they committed it", self._step, error)
                committed = self._ask_others(name)
        # Each rank of each worker has all it needs once its worker has said ok, so that one who knows is enough.
        committed = transport.any_rank(committed)
        transport.answers.say(name, COMMITTED if committed else FAILED)
        transport.committed = name if committed else None
        if not committed:
            self._release_others()
        transport.finish(
            committed=committed, broken=None if self.failure is None else str(self.failure), step=self._step
        )
        return committed

    def _release_others(self) -> None:
        """Breaks the connections: whoever waits for this rank in the exchange need not wait for the timeout."""
        if not isinstance(self.failure, StaysOut):
            self._transport.wire.abort()

    def _compare_seals(self, name: str) -> None:
        """Checks that everything has arrived as it was sent. This is done before the vote, because a member that has
        received all votes commits.

        Raises:
            TransportError: something has arrived changed, or a member is gone or too slow.
        """
        if self.size == 1:
            return
        sent = contents(self._sent)
        # While these tags are on their way, what arrived last is added to the seals.
        theirs = self._exchange_tags([self._tag("seal", name, self.rank, r, sent[r]) for r in range(self.size)])
        received = contents(self._received)
        damaged = [
            r
            for r, tag in enumerate(theirs)
            if r != self.rank and not self._holds(tag, "seal", name, r, self.rank, received[r])
        ]
        if damaged:
            raise Unverified(f"what {', '.join(map(self.call, damaged))} sent arrived damaged", damaged)

    def _exchange_votes(self, name: str) -> None:
        """Exchanges votes. A yes is a tag with the group's key over the name of the round and the voting member."""
        theirs = self._exchange_tags([self._tag("vote", name, self.rank)] * self.size)
        bad = [r for r, tag in enumerate(theirs) if not self._holds(tag, "vote", name, r)]
        if bad:
            raise Unverified(f"{', '.join(map(self.call, bad))} sent bytes that are not a vote on this round", bad)

    def _exchange_tags(self, tags: Sequence[bytes]) -> list[bytes]:
        """Sends a tag to each member."""
        outgoing = [torch.frombuffer(bytearray(tag), dtype=torch.uint8).to(self.wire) for tag in tags]
        return [tag.cpu().numpy().tobytes() for tag in self.exchange(outgoing, [TAG_BYTES] * self.size)]

    def _tag(self, purpose: str, *fields: Field) -> bytes:
        return self._transport.group.admission.key.tag(purpose, *fields)

    def _holds(self, tag: bytes, purpose: str, *fields: Field) -> bool:
        return self._transport.group.admission.key.holds(tag, purpose, *fields)

    def _insist_on_connection(self) -> None:
        if self.failure is None and not self._transport.wire.connected:
            self.failure = TransportError(CUT_OFF)
        if self.failure is not None:
            raise self.failure

    def _exchange_chunk(
        self, outgoing: list[torch.Tensor], sizes: list[int], device: torch.device
    ) -> list[torch.Tensor]:
        self._insist_on_connection()
        staging = self._transport.staging
        received, staged = staging.room(sum(sizes)), staging.to_wire(outgoing)
        try:
            self._transport.wire.swap(received, sizes, staged, lambda: self._seal(staged))
        except ConnectionError as error:
            self.failure = TransportError(f"lost contact with another worker: {error}")
            raise self.failure from error
        self.bytes_sent += sum(part.numel() for part in outgoing)
        self._arrived = list(received.split(sizes))
        return list(staging.from_wire(received, device).split(sizes))

    def _seal(self, outgoing: Sequence[torch.Tensor]) -> None:
        """Adds the data that goes to each member to its seal, and the data that came with the chunk before. Both are in
        the memory from which the wire sends."""
        arrived, self._arrived = self._arrived, []
        if arrived:
            self._add(self._received, arrived)
        if outgoing:
            self._add(self._sent, outgoing)

    def _add(self, seals: Sequence[Seal], parts: Sequence[torch.Tensor]) -> None:
        """Adds a part to the seal of each member. Data for several members is hashed once."""
        known: dict[tuple[int, int], torch.Tensor] = {}
        for seal, part in zip(seals, parts, strict=True):
            place = part.data_ptr(), part.numel()
            if part.numel() and place not in known:
                known[place] = self._transport.secret_hash.of(part)
            if part.numel():
                seal.add(part, known[place])

    def _ask_others(self, name: str) -> bool:
        """Whether a peer has committed the round. If no live peer has, none will: the round has failed on all of
        them."""
        transport = self._transport
        transport.answers.say(name, IN_DOUBT)  # from here on this rank does not commit unless another one has
        waiting = {rank: peer for rank, peer in enumerate(transport.peers) if rank != self.rank}
        started = transport.clock.now()
        deadline = started + 2 * transport.exchange_seconds  # a peer may have begun to vote only now
        while waiting and transport.clock.now() < deadline:
            for rank, address in list(waiting.items()):
                answer = transport.ask(address, name)
                if answer == COMMITTED:
                    return True
                if answer != VOTING:
                    del waiting[rank]
            if transport.wire.connected and transport.clock.now() - started > UNHEARD_SECONDS:
                transport.wire.abort()  # a peer that waits for this rank's vote would wait until the timeout
            transport.clock.sleep(AGAIN_SECONDS)
        return False
