"""What must hold when workers ask all to stop: all stop after the same round, with a checkpoint, and nobody hangs."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.simulation.invariants import View
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from tests.simulation.run import Run


@dataclass
class Stops:
    """The requests to stop in a run, and what has come of them."""

    _sent: set[tuple[int, int, int]] = field(default_factory=set)
    """Attempt, worker and step of each window that a worker has sent with a request."""
    _anybody: bool = False
    """Whether a worker has asked."""
    _over: set[View] = field(default_factory=set)
    """Those that have committed the round after which all stop."""
    _stopped: dict[tuple[int, int], tuple[int, str]] = field(default_factory=dict)
    """For each worker and rank that has stopped as a member of the last round, step and commit hash."""
    _members: set[int] = field(default_factory=set)
    _step: int | None = None

    def begins(self, *, asks: bool) -> None:
        """A worker meets the others before its first step, and asks all to stop or does not."""
        self._anybody |= asks

    def sends(self, attempt: int, worker: int, step: int, *, asks: bool) -> None:
        """A worker may send windows after a step, and asks all to stop or does not."""
        (self._sent.add if asks else self._sent.discard)((attempt, worker, step))
        self._anybody |= asks

    def commits(self, view: View, attempt: int, committed: Any) -> None:
        """A worker commits a round."""
        leading = [] if committed.fragment is None else committed.weights
        asking = [worker for worker in leading if (attempt, worker, committed.step) in self._sent]
        if asking and not committed.stops:
            raise Violation(
                f"workers {asking} ask to stop after step {committed.step}, and the round says nothing of it"
            )
        if committed.stops:
            if not self._anybody:
                raise Violation(f"all stop after step {committed.step}, though nobody has asked")
            self._over.add(view)
            self._members |= set(committed.weights)

    def takes_step(self, view: View) -> None:
        """A worker takes an inner step."""
        if view in self._over:
            raise Violation(f"worker {view.worker} goes on after the round after which all stop")

    def stopped(self, worker: int, rank: int, step: int, commit_hash: str, saved: bool) -> None:
        """A rank of a member of the last round has stopped after a step."""
        for (other, its_rank), (at, its_hash) in self._stopped.items():
            if at != step or (its_rank == rank and its_hash != commit_hash):
                raise Violation(f"worker {worker} stops after step {step}, and worker {other} after step {at}")
        if not saved:
            raise Violation(f"worker {worker} stops after step {step} without a checkpoint")
        self._stopped[worker, rank], self._step = (step, commit_hash), step

    def check_end(self, run: "Run") -> None:
        """The run is over."""
        if self._step is None:
            return
        stopped = {worker for worker, _ in self._stopped}
        if stopped >= self._members and len(self._stopped) >= len(stopped) * run.shape.ranks:
            if self._step not in run.storage.whole:
                raise Violation(f"all have stopped after step {self._step}, and their checkpoint is not whole")
        elif run.is_calm() and (missing := self._members - stopped):
            raise Violation(f"workers {sorted(missing)} have not stopped after step {self._step}, as the others have")
