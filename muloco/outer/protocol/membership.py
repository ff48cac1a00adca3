"""The membership of one worker in a run: what it tells the others, what it remembers of them, and how it rejoins."""

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, Protocol

import torch

from muloco.failpoints import hit
from muloco.outer.codecs.channel import Channel
from muloco.outer.protocol.header import Header
from muloco.outer.protocol.outcome import CatchUp, Committed, Outcome
from muloco.outer.protocol.quorum import QuorumPolicy, RunProgress, WorkerIdentity
from muloco.outer.protocol.terms import Terms
from muloco.outer.protocol.transaction import StateLost, agree, assemble
from muloco.outer.protocol.transport import Transport, TransportError
from muloco.outer.protocol.whereabouts import AWAY, TRAINING, Whereabouts

logger = logging.getLogger(__name__)


class Handover(Protocol):
    """How a worker hands its state to one that was away."""

    def pack(self) -> bytes:
        """Returns all that a worker needs to go on from here, but its position in the data."""
        ...

    def unpack(self, state: bytes) -> None:
        """Goes on from a packed state, and from this worker's own position in the data
        (`Membership.data_positions`)."""
        ...


class Membership:
    """Keeps what a worker and the others know of each other.

    Args:
        transport: meets them.
        identity: of this worker.
        quorum: how many others it waits for.
        progress: what is known of the run.
        terms: what has to be the same on all of them.
        channel_of: how a fragment travels, by index.
        data_position: returns this worker's position in its shard of the data.
        handover: lets workers that were away join again; None: they cannot.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        identity: WorkerIdentity,
        quorum: QuorumPolicy,
        progress: RunProgress,
        terms: Terms,
        channel_of: Callable[[int], Channel],
        data_position: Callable[[], str],
        handover: Handover | None,
    ):
        self.transport = transport
        self.identity = identity
        self.terms = terms
        self.data_positions: dict[int, str] = {}
        """Each worker's position in its shard of the data, as of the last round that it was in."""
        self.members = list(range(identity.workers))
        """Workers that took part in the last round; before the first one, all."""
        self.commit_hash = ""
        """Hash of the rounds that this worker was in: equal on all that were in the same ones."""
        self.asks_to_stop = False
        """Whether this worker asks all to stop at the next sync."""
        self.stops = False
        """Whether they have agreed to stop here."""
        self.quorum = quorum
        self.progress = progress
        self.holders: Collection[int] | None = None
        """Workers that hold the state of the last round, and could go on with it without this one; None: not known."""
        self.whereabouts = Whereabouts(transport)
        self._channel_of = channel_of
        self._data_position = data_position
        self._handover = handover

    def start(self, step: int, checksums: torch.Tensor, *, left_behind: bool = False) -> None:
        """Meets the others before the first inner step (or the first after `step`): all of them, to compare their
        anchors and outer optimizers by `checksums` (see `agree`); or, where the run goes on already, those at their
        next sync, to take over their state. A worker that was `left_behind` can only do the latter.

        Raises:
            TransportError: too few of them came.
            AnchorMismatch: they start from different anchors. StateLost: the run has come further than they have.
            ForeignRun: this worker does not belong to the run.
        """
        self.whereabouts.now = AWAY
        own = self._header(step, None, weight=0, finite=True, checksums=checksums)
        reached, is_behind = 0, left_behind

        def may_begin() -> bool:
            """Whether this worker votes to begin. A worker that is behind the run does not as long as another one may
            go on with it, which this one then joins."""
            nonlocal reached, is_behind  # before the vote: what comes later, they do together
            reached = self.progress.last_committed_step()
            is_behind = left_behind or reached > step
            return not (is_behind and self.whereabouts.others_hold_a_state())

        while True:
            match assemble(self.transport, own, self._channel_of, self.quorum, may_begin):
                case Committed() as committed:
                    if self.transport.any_rank(is_behind):
                        raise StateLost(
                            f"run {self.identity.run!r} has come to step {reached}, but the workers that are left "
                            f"begin after step {step}"
                        )
                    self.commit(committed)
                    self.whereabouts.now = TRAINING
                    return
                case CatchUp() as catch_up:
                    if self.take_over(catch_up):
                        return

    def agree(
        self,
        step: int,
        fragment: int,
        payload: Callable[[], torch.Tensor],
        *,
        weight: int,
        finite: bool,
        checksums: Callable[[], torch.Tensor],
        overwrite: bool,
    ) -> Outcome:
        """Returns how the round of a fragment that is sent after `step` ends; see `transaction.agree`.

        Args:
            step: inner step after which the fragment is sent.
            fragment: index of the fragment.
            payload: returns this worker's pseudogradient.
            weight: inner steps in the window.
            finite: whether the pseudogradient holds neither NaN nor Inf.
            checksums: returns the digests of the fragment's anchor and of its outer optimizer's state, an int64 vector;
                called once for each attempt, since the payload is.
            overwrite: whether the mean may be written over the vector that `payload` returns.
        """
        header = self._header(step, fragment, weight=weight, finite=finite, checksums=checksums())

        workers = self.identity.workers
        holders = range(workers) if self.holders is None else self.holders

        def committed_without_me(members: Collection[int]) -> bool:
            """Does not ask if all are here, or more than half of all workers, among them all that hold the state of the
            last round: then nobody can have gone on without this one. Two smaller groups may both have gone on."""
            if set(holders) <= set(members) and 2 * len(members) > workers:
                return False
            return self.progress.committed_without_me(step, fragment)

        outcome = None
        search = self.whereabouts.search(holders, straggler_seconds=self.quorum.straggler_timeout_seconds)
        try:
            outcome = agree(
                self.transport,
                header,
                payload,
                self._channel_of,
                committed_without_me,
                search,
                again=lambda own: _holding(own, checksums()),
                overwrite=overwrite,
                patience=self.quorum.quorum_timeout_seconds,
            )
            if isinstance(outcome, Committed):  # who asks after the round is told of it before this worker trains on
                self.progress.record(step, fragment, outcome.weights)
        finally:
            self.whereabouts.now = TRAINING if isinstance(outcome, Committed) else AWAY
        return outcome

    def commit(self, committed: Committed) -> None:
        """Keeps what all members know now, and hands this worker's state to those that were away."""
        self.stops |= committed.stops
        self.commit_hash = committed.commit_hash
        self.data_positions |= committed.data_positions
        members = sorted(committed.weights)
        if 2 * len(members) < self.identity.workers and members != self.members:
            logger.warning(
                "fewer than half of the %d workers take part from step %d on: %s",
                self.identity.workers,
                committed.step,
                ", ".join(map(str, members)),
            )
        self.members = members
        if committed.fragment is not None:  # several groups may have begun, each without knowing of the others
            self.holders = {*members, *committed.behind}
        if committed.donates:
            if self._handover is None:
                raise RuntimeError(f"workers {committed.behind} want to rejoin, but there is no handover for them")
            logger.info("workers %s rejoin", ", ".join(map(str, committed.behind)))
            self.transport.offer(committed.name, self._handover.pack())

    def finish(self) -> None:
        """This worker comes to no more rounds, so nobody needs to wait for it."""
        self.whereabouts.now = AWAY

    def part(self, transport: Transport) -> None:
        """Takes this worker out of the rounds of the run: from now on it is alone, in rounds over `transport`. These
        are not written to the commit log, because the run has not gone on by them."""
        transport.any_rank = self.transport.any_rank  # type: ignore[method-assign] # its ranks still act together
        self.transport, self.whereabouts = transport, Whereabouts(transport)
        self.quorum = replace(self.quorum, min_replica_size=1, straggler_timeout_seconds=0.0)
        self.progress = replace(self.progress, record=RunProgress.record)

    def take_over(self, catch_up: CatchUp) -> bool:
        """Goes on from a leader's state; False: the leader is gone.

        Where all stop, there is nothing to go on with: this worker has no part in what they leave behind.
        """
        if catch_up.committed.stops:
            self.stops, self.members = True, []
            return True
        if self._handover is None:
            raise RuntimeError("this worker is behind the others, but there is no handover by which it could rejoin")
        hit("join")
        state = None
        try:
            state = self.transport.fetch(catch_up.committed.name, catch_up.donor)
        except TransportError as error:
            logger.warning("%s; meeting the others again", error)
        if self.transport.any_rank(state is None):  # one rank alone would wait for the others of this worker for ever
            return False
        assert state is not None
        self._handover.unpack(state)
        self.whereabouts.now = TRAINING
        return True

    def publish(self, name: str, part: bytes) -> None:
        """Offers this worker's part of shared work to the others; see `Transport.publish`."""
        self.transport.publish(name, part)

    def collect(self, name: str, patience: float) -> list[bytes]:
        """Returns the parts that the other members of the last round have published under a name; see
        `Transport.collect`."""
        others = [worker for worker in self.members if worker != self.identity.worker]
        return list(self.transport.collect(name, others, patience).values())

    def state(self) -> dict[str, Any]:
        """Returns the JSON values that a checkpoint keeps. The keys are those of earlier versions."""
        return {
            "history": self.commit_hash,
            "shares": list(self.data_positions.items()),
            "members": self.members,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from the result of `state`."""
        self.commit_hash, self.members, self.holders = state["history"], state["members"], None
        self.data_positions = dict(state["shares"])

    def _header(self, step: int, fragment: int | None, *, weight: int, finite: bool, checksums: torch.Tensor) -> Header:
        header = Header(
            run=self.identity.run,
            worker=self.identity.worker,
            terms=self.terms,
            step=step,
            fragment=fragment,
            weight=weight,
            finite=finite,
            digest=0,
            data_position=self._data_position(),
            commit_hash=self.commit_hash,
            asks_to_stop=self.asks_to_stop,
        )
        return _holding(header, checksums)


def _holding(header: Header, checksums: torch.Tensor) -> Header:
    """Returns the header with these digests of anchor and outer optimizer."""
    anchor, outer = checksums.tolist()
    return replace(header, digest=anchor, outer_digest=outer)
