"""A run as sentences that a person can read."""

from collections.abc import Iterator

from tests.simulation.faults import Schedule
from tests.simulation.run import Outcome


def tell(schedule: Schedule, outcome: Outcome) -> Iterator[str]:
    """Yields the lines of the story of a run: what was run, what has happened, and how it has ended."""
    shape = schedule.shape
    yield (
        f"Seed {schedule.seed}: {shape.workers} workers{f' of {shape.ranks} ranks' if shape.ranks > 1 else ''} take "
        f"{shape.steps} inner steps, H = {shape.interval}, "
        f"fragments = {shape.fragments}, tau = {shape.delay}"
        f"{', 4-bit with error feedback' if shape.compressed else ''}"
        f"{f', at least {shape.least} workers' if shape.least > 1 else ''}"
        f"{f', a checkpoint every {shape.save_every} steps' if shape.save_every else ''}."
    )
    for number, fault in enumerate(schedule.faults, 1):
        yield f"  fault {number}: {fault}"
    yield ""
    skipped, last = 0, ""
    for time, who, what in outcome.story:
        same = what.startswith("makes quorum") and what.partition(" of ")[2] == last
        last = what.partition(" of ")[2] if what.startswith("makes quorum") else ""
        if same:
            skipped += 1
            continue
        if skipped:
            yield f"{'':>10}    (and {skipped} more quorums of the same workers)"
            skipped = 0
        yield f"{time:>10.3f} s  {who} {what}"
    yield ""
    if outcome.failure is not None:
        yield f"It has failed: {type(outcome.failure).__name__}: {outcome.failure}"
    else:
        how = {
            "done": "all that was left is done",
            "lost": "nobody holds the state of the run any more",
            "failed as defined": "a pseudogradient that is not finite ends all workers",
            "corrupt": "workers have noticed that bits of an anchor or a momentum were flipped",
            "foreign": "a new worker has met only a stranger, and has left",
        }[outcome.end]
        yield f"It has ended after {outcome.seconds:.1f} simulated seconds: {how}."
