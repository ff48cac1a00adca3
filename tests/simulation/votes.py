"""What must hold of votes, whatever happens: nobody commits a round on which a member has not voted; and a round that
one living member has committed, no other one gives up.

Rounds are known by their names, which are unique.
"""

from dataclasses import dataclass, field

from muloco.outer.protocol.answers import COMMITTED, FAILED
from muloco.outer.protocol.peer_transport import PeerTransport
from tests.simulation.invariants import Ledger, Violation
from tests.simulation.world import Process


@dataclass
class Votes:
    """The votes of a run.

    Args:
        ledger: of the run; it says until when workers may not hear each other.
    """

    ledger: Ledger
    _voted: dict[str, set[int]] = field(default_factory=dict)
    """The workers that have voted for each round."""
    _committed: dict[str, dict[int, Process]] = field(default_factory=dict)
    _failed: dict[str, dict[int, Process]] = field(default_factory=dict)

    def watch(self, worker: int, process: Process, transport: PeerTransport) -> None:
        """Watches the votes of a process of a worker."""
        answers = transport.answers
        begin_vote, say = answers.begin_vote, answers.say

        def begins(name: str) -> bool:
            votes = begin_vote(name)
            if votes:
                self._voted.setdefault(name, set()).add(worker)
            return votes

        def says(name: str, outcome: str) -> None:
            process.world.here()  # the dead say nothing
            say(name, outcome)
            if outcome == COMMITTED:
                if missing := set(transport.group.workers) - self._voted.get(name, set()):
                    raise Violation(f"worker {worker} commits a round on which workers {sorted(missing)} do not vote")
                self._committed.setdefault(name, {})[worker] = process
                self._compare(worker, "commits", "have given up", self._failed.get(name, {}))
            if outcome == FAILED:
                self._failed.setdefault(name, {})[worker] = process
                self._compare(worker, "gives up", "have committed", self._committed.get(name, {}))

        answers.begin_vote, answers.say = begins, says  # type: ignore[method-assign]

    def _compare(self, worker: int, does: str, have: str, others: dict[int, Process]) -> None:
        alive = sorted(other for other, process in others.items() if process.alive and not process.paused)
        if alive and next(iter(others.values())).world.now > self.ledger.disturbed:
            raise Violation(f"worker {worker} {does} a round that workers {alive} {have}")
