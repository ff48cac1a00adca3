"""Who leads a round, by the definition: who has come furthest, and among these the largest set with one history."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tests.simulation.toy import Shape
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from tests.simulation.invariants import View


def check_leaders(shape: Shape, views: Sequence["View"], committed: Any) -> None:
    """Checks that those that take over the state of the leaders of a round have no better claim to lead.

    Args:
        shape: of the run.
        views: of all workers, when the first leader applies the round.
        committed: `muloco.outer.protocol.outcome.Committed`.
    """
    leaders, step = sorted(committed.weights), committed.step
    behind = [v for v in views if v.worker in committed.behind and v.process is not None and v.process.alive]
    for view in behind:
        mine = view.sends_after
        if mine is None:
            continue
        majority = 2 * len(leaders) > shape.workers and committed.fragment is not None
        if mine > step and not (majority and mine > step + shape.interval):
            raise Violation(f"workers {leaders} lead after step {step}, worker {view.worker}, after {mine}, does not")
        alike = [other.worker for other in behind if other.sends_after == step and other.node is view.node]
        if mine == step and (committed.fragment is None or len(alike) > len(leaders)):
            raise Violation(f"workers {leaders} lead after step {step}, and workers {alike}, of one history, do not")
