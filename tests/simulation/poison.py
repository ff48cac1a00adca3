"""What must hold when a pseudogradient holds NaN or Inf: all members end alike, and nobody commits the round."""

import re
from typing import TYPE_CHECKING

import numpy

from muloco.outer.protocol.transaction import NonFinitePseudogradient
from tests.simulation.invariants import Ledger
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from tests.simulation.run import Run

DEFINED = re.compile(
    r"sync after step (\d+): NaN or Inf in the pseudogradient of worker \[([\d, ]+)\], fragment (\d+)(; on worker .*)?"
)


class Poison:
    """The workers that have ended because of a pseudogradient that is not finite."""

    def __init__(self) -> None:
        self._ended: set[int] = set()
        self._expected: set[int] = set()
        """Those that were in the round, as far as this is sure."""

    def is_defined(self, error: Exception, ledger: Ledger) -> bool:
        """Whether an error of a rank is the one that is defined for its round.

        Raises:
            Violation: it names another worker, or comes too late.
        """
        if not isinstance(error, NonFinitePseudogradient):
            return False
        said = DEFINED.fullmatch(str(error))
        if said is None:
            raise Violation(f"a pseudogradient that is not finite was not refused before the round: {error}")
        step, fragment = int(said[1]), int(said[3])
        for worker in map(int, said[2].split(",")):
            sent = ledger.sent.get((ledger.attempt, worker, step, fragment), [])
            if all(numpy.isfinite(one.window.total).all() for one in sent):
                raise Violation(f"worker {worker} has sent a finite window after step {step}, and was refused")
        return True

    def ended(self, run: "Run", worker: int) -> None:
        """A worker has ended with the error."""
        if not self._ended and run.is_calm():
            self._expected = {view.worker for view in run.ledger.views if view.started and run.ledger.lives(view)}
        self._ended.add(worker)

    def check_end(self) -> None:
        """The run is over."""
        if missing := self._expected - self._ended:
            raise Violation(
                f"workers {sorted(self._ended)} end because of NaN or Inf, and workers {sorted(missing)} not"
            )
