"""Ends workers that are alive but make no progress, so that they are started again."""

import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence

from muloco.launch.processes import Child
from muloco.runs.states import State
from muloco.training.pulse import Sign

logger = logging.getLogger(__name__)

STEPS = 20
"""A worker stands still if a step takes longer than the time limit and this many times longer than a usual step."""
PATIENCE = 12
"""Factor by which the time limit is longer for everything whose duration is not known, such as the first step or a
validation."""
STACK_SECONDS = 2.0
"""Seconds between asking a worker for its stacks and ending it."""
GRACE_SECONDS = 3.0
"""Seconds between asking a worker to end and killing it."""
_LONGEST_LOOK = 5.0
"""Most seconds that are counted between two looks. After a longer pause, the supervisor itself was stopped and has not
yet read the output."""
_REMEMBERED = 100
"""Number of last steps whose median is the usual time of a step."""
_WAITING = (State.RESUMED, State.MEETING, State.SYNCING, State.FINISHED, State.STOPPED)
"""States in which a worker waits for others, which has time limits of its own."""
_UNLIMITED = (*_WAITING, State.PREPARING, State.EVALUATING)
"""States without a limit. Preparing data and evaluating tasks may take any time."""


class Watchdog:
    """Watches the processes of workers.

    Args:
        limit: seconds in which a worker has to take its next inner step (`fault_tolerance.stall_timeout_seconds`).
    """

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic):
        self._limit, self._clock = limit, clock
        self._looked = clock()
        self._watches: dict[int, _Watch] = {}

    def look(self, children: Sequence[Child]) -> None:
        """Looks once at the processes of all workers; has to be called regularly."""
        now = self._clock()
        passed, self._looked = min(now - self._looked, _LONGEST_LOOK), now
        known = self._watches
        self._watches = {id(child): known.get(id(child)) or _Watch(child) for child in children}
        for watch in self._watches.values():
            watch.look(passed, self._limit)


class _Watch:
    """The watch over one process."""

    def __init__(self, child: Child):
        self._child = child
        self._signs = 0
        self._sign: Sign | None = None
        self._quiet = 0.0
        """Seconds since its last sign of life."""
        self._steps: deque[float] = deque(maxlen=_REMEMBERED)
        """Seconds that its last inner steps took."""
        self._asked = False

    def look(self, passed: float, limit: float) -> None:
        self._quiet += passed
        signs, sign = self._child.signs, self._child.sign
        if signs != self._signs:
            if self._sign is not None and self._sign.state == State.TRAINING:
                self._steps.append(self._quiet / (signs - self._signs))
            self._signs, self._sign = signs, sign
            self._quiet, self._asked = 0.0, False
        if self._child.status is not None or self._sign is None or self._sign.state in _UNLIMITED:
            return
        if self._sign.state == State.TRAINING and self._steps:
            limit = max(limit, STEPS * statistics.median(self._steps))
        else:
            limit *= PATIENCE
        if self._quiet > limit and not self._asked:
            logger.warning(
                "%s stands still: no sign of life for %.0f s (state: %s, after step %d); it is ended, with the stacks "
                "of its threads at the end of its log %s",
                self._child.name,
                self._quiet,
                self._sign.state,
                self._sign.step,
                self._child.log,
            )
            self._asked = True
            self._child.ask_for_stacks()
        elif self._quiet > limit + STACK_SECONDS:
            because = f"stood still for {self._quiet:.0f} s (state: {self._sign.state}, after step {self._sign.step})"
            self._child.end(GRACE_SECONDS, because=because)
