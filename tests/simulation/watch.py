"""What must hold within the engine of each worker, whatever happens: of votes, of waits, and of residuals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from muloco.outer import OuterLoop
from muloco.outer.protocol.answers import COMMITTED, FAILED, KEPT
from muloco.outer.protocol.peer_round import PeerRound
from muloco.outer.protocol.peer_transport import PeerTransport
from tests.simulation.invariants import Ledger, Violation
from tests.simulation.world import Process

LONGEST_VOTE_SECONDS = 9.0
"""Seconds in which a vote ends on every member if all can hear each other."""
SETTLING_SECONDS = 30.0
"""Seconds after the last fault from which on nobody waits in vain any more, even if some have been silent."""
CPU = torch.device("cpu")


@dataclass
class Watch:
    """Watches the workers of a run.

    Args:
        ledger: of the run; it says until when workers may not hear each other.
        exchange_seconds: timeout of an exchange.
    """

    ledger: Ledger
    exchange_seconds: float
    _voted: dict[str, set[int]] = field(default_factory=dict)
    """The workers that have voted for each round, by its name, which is unique."""
    _given_up: set[tuple[str, Process]] = field(default_factory=set)
    """The rounds that a process, asked by another one, has said to have failed."""
    _left: set[Process] = field(default_factory=set)
    """Processes that have left the run at its end, and no round in doubt."""
    _committed: dict[str, dict[int, Process]] = field(default_factory=dict)
    _failed: dict[str, dict[int, Process]] = field(default_factory=dict)

    def all_of(self, worker: int, process: Process, transport: PeerTransport, loop: OuterLoop) -> None:
        """Watches a process of a worker."""
        _staying_out(worker, process, transport)
        self._votes(worker, process, transport)
        self._waits(worker, process, transport)
        _residuals(worker, transport, loop)

    def _votes(self, worker: int, process: Process, transport: PeerTransport) -> None:
        """Nobody commits a round on which a member has not voted; a round that one living member has committed, no
        other one gives up; and each does what it says."""

        def votes(name: str, may: bool) -> None:
            if may and (name, process) in self._given_up:
                raise Violation(f"worker {worker} votes on a round of which it has said that it has failed")
            if may:
                self._voted.setdefault(name, set()).add(worker)

        def says(name: str, outcome: str) -> None:
            if outcome == COMMITTED:
                if missing := set(transport.group.workers) - self._voted.get(name, set()):
                    raise Violation(f"worker {worker} commits a round on which workers {sorted(missing)} do not vote")
                self._committed.setdefault(name, {})[worker] = process
                self._compare(worker, "commits", "have given up", self._failed.get(name, {}))
            if outcome == FAILED:
                self._failed.setdefault(name, {})[worker] = process
                self._compare(worker, "gives up", "have committed", self._committed.get(name, {}))

        def opened(this_round: PeerRound) -> None:
            name = this_round.name
            if this_round.failure is None:
                self.ledger.meets(name, process)
            if max(map(len, (answers._rounds, answers._given_up))) > KEPT:
                raise Violation(f"worker {worker} remembers more than {KEPT} rounds")

            def voted(committed: bool) -> None:
                if answers._rounds.get(name) != (COMMITTED if committed else FAILED):
                    raise Violation(f"worker {worker} says another thing of a round than it does")

            this_round.vote = _then(this_round.vote, lambda _, committed: voted(committed))  # type: ignore[method-assign]

        def asked(name: str, answer: bytes) -> None:
            if answer == FAILED.encode():
                self._given_up.add((name, process))

        answers = transport.answers
        transport.close = _then(transport.close, lambda *_: self._left.add(process))  # type: ignore[method-assign]
        answers.questions["round"] = _then(answers.questions["round"], asked)
        transport.open = _then(transport.open, lambda _, this_round: opened(this_round))  # type: ignore[method-assign]
        answers.begin_vote = _then(answers.begin_vote, votes)  # type: ignore[method-assign]
        answers.say = _then(answers.say, lambda name, outcome, _: says(name, outcome))  # type: ignore[method-assign]

    def _compare(self, worker: int, does: str, have: str, others: dict[int, Process]) -> None:
        self.ledger.torn |= bool(others)
        here = {other: process for other, process in others.items() if process.alive and not process.paused}
        alive = sorted(here | {other: process for other, process in others.items() if process in self._left})
        if alive and others[alive[0]].world.now > self.ledger.disturbed:
            raise Violation(f"worker {worker} {does} a round that workers {alive} {have}")

    def _waits(self, worker: int, process: Process, transport: PeerTransport) -> None:
        """As long as nobody falls silent, not even the lighthouse, which may have answered only some, no exchange waits
        until its timeout, and votes end soon."""
        world, wire = process.world, transport.wire
        swap, finish = wire.swap, wire.finish

        def swaps(*args: Any) -> None:
            started = world.now
            try:
                swap(*args)
            except ConnectionError:
                if world.now - started >= self.exchange_seconds:
                    self._is_late(f"worker {worker} waits in an exchange until the timeout", started)
                raise

        not_voted: list[str] = []

        def opened(this_round: PeerRound) -> None:
            vote = this_round.vote
            if not_voted:
                raise Violation(f"worker {worker} opens a round without having voted on the one before")
            not_voted.append(this_round.name)

            def votes(ok: bool) -> bool:
                started = world.now
                not_voted.clear()
                committed = vote(ok)
                if world.now - started > LONGEST_VOTE_SECONDS:
                    self._is_late(f"worker {worker} needs {world.now - started:.1f} s for a vote", started)
                return committed

            this_round.vote = votes  # type: ignore[method-assign]

        def finishes(failure: str | None) -> str | None:
            if failure is None and not wire.connected and worker not in transport.reachability.out:
                raise Violation(f"worker {worker} has cut its connections, and does not ask for new ones")
            return finish(failure)

        def tidied(this_round: PeerRound) -> None:
            hears = world.now > max(self.ledger.disturbed, self.ledger.unmet)
            if this_round.rank == 0 and this_round.failure is None and hears and wire.entries():
                raise Violation(f"worker {worker} leaves entries of its group in the store")

        transport.open = _then(transport.open, lambda _, this_round: tidied(this_round))  # type: ignore[method-assign]
        wire.swap, wire.finish = swaps, finishes  # type: ignore[method-assign]
        transport.open = _then(transport.open, lambda _, this_round: opened(this_round))  # type: ignore[method-assign]

    def _is_late(self, what: str, started: float) -> None:
        never_silent = max(self.ledger.disturbed, self.ledger.unmet) < 0 and not self.ledger.held_up
        if never_silent or started > self.ledger.healed + SETTLING_SECONDS:
            raise Violation(f"{what}, though all can hear each other")


def _staying_out(worker: int, process: Process, transport: PeerTransport) -> None:
    """Whoever stays out of the rounds does so for one that takes part. The wire would take an error that is raised here
    for one of its own."""
    reachability = transport.reachability

    def settled(out: set[int]) -> None:
        for other, for_whom in reachability.out.items():
            if for_whom in out:
                process.world.fail(Violation(f"workers {other} and {for_whom} both stay out, as worker {worker} finds"))

    reachability.settle = _then(reachability.settle, lambda _, out: settled(out))  # type: ignore[method-assign]


def _residuals(worker: int, transport: PeerTransport, loop: OuterLoop) -> None:
    """A failed round changes no residuals, no residual is kept twice, and a worker that joins has none."""
    channels = [fragment.channel for fragment in loop.fragments]
    if not any(channel.residuals(CPU) for channel in channels):
        return
    before: list[torch.Tensor] = []

    def now() -> list[torch.Tensor]:
        return [vector for channel in channels for vector in channel.residuals(CPU).values()]

    def opened(*_: object) -> None:
        before[:] = now()
        for fragment, channel in zip(loop.fragments, channels, strict=True):
            for encoder in (channel.sent, channel.owned):
                kept = sum(part.numel() for part in encoder.residual._kept.values())  # type: ignore[union-attr]
                if kept > fragment.elements:
                    raise Violation(f"worker {worker} keeps {kept} residuals for {fragment.elements} elements")

    def says(outcome: str) -> None:
        if outcome == FAILED and not _equal(before, now()):
            raise Violation(f"a failed round has changed the residuals of worker {worker}")

    def joined(taken: bool) -> None:
        if taken and any(vector.any() for vector in now()):
            raise Violation(f"worker {worker} keeps residuals of its own beside the state of another worker")

    answers, membership = transport.answers, loop.membership
    transport._connect = _then(transport._connect, opened)  # type: ignore[method-assign]
    answers.say = _then(answers.say, lambda name, outcome, _: says(outcome))  # type: ignore[method-assign]
    membership.take_over = _then(membership.take_over, lambda _, taken: joined(taken))  # type: ignore[method-assign]


def _equal(some: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def _then(function: Callable[..., Any], look: Callable[..., object]) -> Callable[..., Any]:
    """Returns the function, after which `look` is called with its arguments and its result."""

    def both(*args: Any) -> Any:
        result = function(*args)
        look(*args, result)
        return result

    return both
