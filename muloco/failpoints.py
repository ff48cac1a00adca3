"""Failpoints: named points in a worker's life at which tests can act and faults can be injected.

The code at such a point calls `hit`, which does nothing without listeners. `muloco.training.chaos` is one.
"""

from collections.abc import Callable

FAILPOINTS = (
    "inner_step",  # before an inner step
    "open",  # before it meets the others at a sync
    "headers",  # they have met, nothing is exchanged yet
    "scatter",  # the headers are exchanged; before the pseudogradients go to their owners
    "gather",  # the owners have the means; before they go back to all
    "vote",  # all is exchanged; before the vote
    "commit",  # the vote was taken; before the outer step
    "checkpoint",  # within the writing of a checkpoint
    "validation",  # before a validation
    "join",  # before it takes over another worker's state
)

_listeners: list[Callable[[str], None]] = []


def on_hit(listener: Callable[[str], None]) -> None:
    """Calls `listener` with the name of each failpoint that this process hits, from the thread that hits it."""
    _listeners.append(listener)


def hit(failpoint: str) -> None:
    """Tells the listeners that this process is at one of `FAILPOINTS`."""
    assert failpoint in FAILPOINTS, failpoint
    for listener in _listeners:
        listener(failpoint)
