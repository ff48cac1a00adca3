"""The transport for workers that meet over a `Wire`."""

import hashlib
import logging
import re
from collections.abc import Callable, Collection, Sequence
from functools import partial

import torch

from muloco.outer.protocol.answers import HELD_SECONDS, IN_DOUBT, VOTING, Answers, ask, fetch
from muloco.outer.protocol.authentication import Key
from muloco.outer.protocol.clock import Clock, ask_all, reminder
from muloco.outer.protocol.exchange import gather_bytes
from muloco.outer.protocol.group import Group
from muloco.outer.protocol.peer_round import AGAIN_SECONDS, PeerRound
from muloco.outer.protocol.reachability import Reachability
from muloco.outer.protocol.seal import SecretHash
from muloco.outer.protocol.staging import Staging
from muloco.outer.protocol.transport import TransportError
from muloco.outer.protocol.wire import CUT_OFF, Wire

logger = logging.getLogger(__name__)

ASK_SECONDS = 5.0
WAITING_SECONDS = 30.0
"""Seconds after which a worker says that it waits for others."""
PAUSE_SECONDS = 1.0
"""Pause before a worker looks again for members that hold the secret."""


class PeerTransport:
    """See `muloco.outer.protocol.transport.Transport`: one rank's end of a run that meets at a lighthouse.

    The lighthouse decides who meets. Whether a round is committed its members decide by their vote. What the wire says
    about the connections afterwards does not change it.

    Args:
        clock: of this rank.
        wire: this rank's connections.
        key: of the run. Members of a quorum that do not hold it are left out, and all their messages are ignored.
        worker: id of this worker, from 0.
        min_replica_size: fewest workers that make a round.
        device: the device of the parameters, which makes and reads payloads.
        quorum_seconds: how long to wait for the other workers at a sync.
        exchange_seconds: how long a chunk of an exchange may take.
    """

    concurrent = True

    def __init__(
        self,
        clock: Clock,
        wire: Wire,
        key: Key,
        *,
        worker: int,
        min_replica_size: int,
        device: torch.device,
        quorum_seconds: float,
        exchange_seconds: float,
    ):
        self.clock = clock
        self.wire = wire
        self.device = device
        self.staging = Staging(device, wire.device)
        self.answers = Answers(clock)
        self.address = wire.serve(self.answers.answer)
        """Address at which this rank answers requests."""
        self.reachability = Reachability(worker, self.address, clock, wire.reaches)
        self.group = Group(key, self.reachability, exchange_seconds)
        self.exchange_seconds = exchange_seconds
        self._worker = worker
        self._min_replica_size = min_replica_size
        self._quorum_seconds = quorum_seconds
        self._introduced = -1  # number of quorums of the group for which `peers` holds
        self._group_name = ""
        self.secret_hash: SecretHash
        """The hash for the seals of the group."""
        self.committed: str | None = None
        """Name of the last round, if it was committed."""
        self._rounds = 0
        self.peers: list[str] = []
        """Address of each member of the group for requests, in rank order."""
        self._address_of: dict[int, str] = {}
        """Last known address of each worker that this one has met so far, by worker."""

    def open(self, step: int) -> PeerRound:
        deadline = self.clock.now() + self._quorum_seconds

        def remind() -> None:
            logger.info("waiting for %d or more workers after step %d", self._min_replica_size, step)

        with reminder(self.clock, WAITING_SECONDS, remind):
            while True:
                this_round = self._connect(step)
                # The lighthouse also counts members that do not have the secret.
                if self.all_ranks(this_round.failure is not None or this_round.size >= self._min_replica_size):
                    return this_round
                if self.any_rank(self.clock.now() > deadline):
                    raise TransportError(self._no_quorum(step))
                this_round.vote(False)
                self.clock.sleep(PAUSE_SECONDS)

    def _connect(self, step: int) -> PeerRound:
        """Opens a round with the members of a quorum that hold the secret.

        Raises:
            TransportError: there is no quorum within the timeout.
        """
        self.reachability.elsewhere = self._of_all_ranks(self.reachability.apart())
        try:
            failure = self.wire.meet(self.group)
        except (RuntimeError, TimeoutError) as error:
            raise TransportError(f"{self._no_quorum(step)}: {error}") from error
        self._rounds += 1
        broken = None
        if failure is not None:
            broken = TransportError(f"the workers could not be connected: {failure}")
        if (reason := self.reachability.reason_to_stay_out()) is not None:
            broken = reason
        if not self._ranks_have_met_the_same():
            broken = broken or TransportError("the ranks of this worker have met different workers")
        this_round = PeerRound(self, step, broken)
        if self._introduced != self.group.quorums and broken is None and self.wire.connected:
            # A lighthouse that was restarted may repeat the number of a quorum whose members were not connected. Then
            # there is no new group, and the rounds of the last one must not begin anew: their names are unique.
            self._introduce(this_round)
        return this_round

    def _no_quorum(self, step: int) -> str:
        return (
            f"sync after step {step}: no quorum of {self._min_replica_size} or more workers within "
            f"{self._quorum_seconds:g} s (fault_tolerance.quorum_timeout_seconds)"
        )

    def finish(self, *, committed: bool, broken: str | None, step: int) -> None:
        """Ends a round. If connections have failed, new ones are made for the next round.

        The vote has been taken by now, and what the wire answers does not change it, since the other workers may have
        committed. The answer says whether the connections of all ranks of this worker have held. If they have not,
        nothing is sent over them any more.

        Args:
            committed: whether the round was committed.
            broken: why this rank cannot exchange any more; None if it can.
            step: inner step of the sync.

        Raises:
            TransportError: a rank of this worker does not answer.
        """
        if committed and broken is None and not self.wire.connected:
            broken = CUT_OFF
        if not committed and self.reachability.reason_to_stay_out() is None:
            self.reachability.failed(self.group.quorum)
        elif committed and self.group.missed:
            self.reachability.failed(self.group.missed)
            self.group.missed = ()
        elif committed:
            self.reachability.look_again_meanwhile()
        failure = None
        if (not committed or broken is not None) and not self.reachability.keeps_out():
            failure = broken or "the round failed"
        try:
            failed = self.wire.finish(failure)
        except (RuntimeError, TimeoutError) as error:
            raise TransportError(f"sync after step {step}: the ranks of this worker did not agree: {error}") from error
        if committed and failed is not None:
            logger.warning("sync after step %d: committed, but connections failed: %s", step, broken or failed)
        if failed is not None:
            self.wire.abort()

    def offer(self, name: str, state: bytes) -> None:
        self.answers.offer(name, state)

    def fetch(self, name: str, rank: int) -> bytes:
        address = self.peers[rank]
        try:
            return self._fetch(address, f"/state/{name}", self._quorum_seconds, self.exchange_seconds)
        except OSError as error:
            raise TransportError(f"no state from the worker at {address} after round {name}: {error}") from error

    def publish(self, name: str, part: bytes) -> None:
        self.answers.publish(name, part)

    def collect(self, name: str, workers: Collection[int], patience: float) -> dict[int, bytes]:
        deadline = self.clock.now() + patience
        known, parts = self._address_of, {}
        for worker in workers:
            if worker == self._worker or worker not in known:
                continue
            left = max(0.0, deadline - self.clock.now())
            try:  # a silent peer may be one that holds the request until it has the part
                parts[worker] = self._fetch(known[worker], f"/part/{name}", left, max(2 * HELD_SECONDS, left))
            except OSError as error:
                logger.info("worker %d did not provide part %s: %s", worker, name, error)
        return parts

    def answer(self, question: str, answer: Callable[[], bytes]) -> None:
        self.answers.questions[question] = lambda name: answer()

    def inquire(self, question: str, seconds: float, workers: Collection[int] | None = None) -> dict[int, bytes]:
        seconds = min(seconds, self.exchange_seconds / 3)  # the other members of an open round wait for this one
        known = self._address_of
        asked = {worker: known[worker] for worker in known if workers is None or worker in workers}
        asked.pop(self._worker, None)
        request = partial(self.wire.request, path=f"/{question}/newest", seconds=seconds)
        answers = ask_all(self.clock, [*asked.values()], request, seconds=seconds)
        return {worker: answers[address] for worker, address in asked.items() if address in answers}

    def cut(self) -> None:
        self.wire.abort()

    def close(self) -> None:
        if self.committed is not None:
            self._answer_those_in_doubt(self.committed)
        self.wire.close()

    def all_ranks(self, value: bool) -> bool:
        """Whether it holds on all ranks of this worker."""
        return all(given for (given,) in self.wire.of_ranks([value]))

    def any_rank(self, value: bool) -> bool:
        """Whether it holds on one of the ranks of this worker."""
        return any(given for (given,) in self.wire.of_ranks([value]))

    def ask(self, address: str, name: str) -> str | None:
        """Returns what has become of a round at a peer; see `muloco.outer.protocol.answers.ask`."""
        return ask(self.wire.request, address, name, seconds=ASK_SECONDS)

    @property
    def round_name(self) -> str:
        """Name of the open round, equal on all members."""
        return f"{self._group_name}-{self._rounds}"

    def _fetch(self, address: str, path: str, patience: float, seconds: float) -> bytes:
        return fetch(self.wire.request, self.clock, address, path, patience=patience, seconds=seconds)

    def _answer_those_in_doubt(self, name: str) -> None:
        """Stays until no other member needs to hear from this one that the round has been committed."""
        waiting = [address for address in self.peers if address != self.address]
        deadline = self.clock.now() + 2 * self.exchange_seconds
        while waiting and self.clock.now() < deadline:
            waiting = [peer for peer in waiting if self.ask(peer, name) in (VOTING, IN_DOUBT)]
            self.clock.sleep(AGAIN_SECONDS if waiting else 0)

    def _introduce(self, this_round: PeerRound) -> None:
        """Tells the members of a new group the address at which this one answers questions about rounds. The group's
        name and key are unique, even if a restarted lighthouse repeats its quorum numbers."""
        self.peers, self._rounds, self._group_name = [], 1, self.group.admission.name
        self.secret_hash = SecretHash(self.group.admission.key)
        try:
            own = f"{self.address} {self._worker}".encode()
            told = [_introduction(data) for data in gather_bytes(this_round, own)]
        except TransportError as error:
            this_round.failure = error
            return
        self.peers = [address for address, _ in told]
        met = {worker: address for address, worker in told}
        self._address_of |= met
        self.reachability.introduced(met)
        self._introduced = self.group.quorums
        if this_round.rank == 0:
            self.wire.forget_rendezvous()

    def _ranks_have_met_the_same(self) -> bool:
        """Whether the groups of all ranks of this worker have the same members."""
        met = (self.group.admission.admitted, sorted(self.reachability.out)) if self.wire.connected else ()
        number = int.from_bytes(hashlib.sha256(repr(met).encode()).digest()[:7], "big")
        return len(set(map(tuple, self.wire.of_ranks([number])))) == 1

    def _of_all_ranks(self, numbers: Sequence[int]) -> set[int]:
        """Returns all the numbers, none below 0, that the ranks of this worker have given."""
        most = max(given for (given,) in self.wire.of_ranks([len(numbers)]))
        if not most:
            return set()
        padded = [*numbers, *[-1] * (most - len(numbers))]
        return {number for given in self.wire.of_ranks(padded) for number in given} - {-1}


def _introduction(told: bytes) -> tuple[str, int]:
    """Parses the message of a member at the start of a group: its address and its worker id.

    Raises:
        TransportError: the message is none of this kind.
    """
    said = re.fullmatch(rb"([!-~]+:\d{1,5}) (\d{1,9})", told)
    if said is None:
        raise TransportError(f"a member sent bytes that are not its address: {told[:80]!r}")
    return said[1].decode(), int(said[2])
