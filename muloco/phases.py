"""Moments in a worker's life at which somebody may want to act: faults on demand (`muloco.training.chaos`) and tests.

The code that lives through a moment says so by `reach`; without listeners that does nothing.
"""

from collections.abc import Callable

PHASES = (
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


def listen(listener: Callable[[str], None]) -> None:
    """`listener` is called with each phase that is reached in this process, from whichever thread reaches it."""
    _listeners.append(listener)


def reach(phase: str) -> None:
    """Tells that this process is at a moment of `PHASES`."""
    assert phase in PHASES, phase
    for listener in _listeners:
        listener(phase)
