"""Trackers of metrics, such as TensorBoard, whose failures do not end the training. Needs nothing but Python."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Protocol

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Takes a worker's metrics in addition to its own metrics file."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Takes values after inner step `step`."""
        ...

    def close(self) -> None: ...


class LastingTracker:
    """Wraps a tracker. If the tracker fails, for example because its files cannot be written, values are dropped for a
    while; the log says so once.

    Args:
        tracker: the wrapped tracker. It is tried again after a pause.
        clock: returns the time in seconds.
    """

    PAUSE_SECONDS = 60.0
    """Seconds from a failure to the next try."""

    def __init__(self, tracker: Tracker, clock: Callable[[], float] = time.monotonic):
        self._tracker, self._clock = tracker, clock
        self._failed = False
        self._again = -math.inf
        """Time from which the tracker may be called again."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        if self._clock() >= self._again:
            self._lasting(lambda: self._tracker.log(values, step))

    def close(self) -> None:
        self._lasting(self._tracker.close)

    def _lasting(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:  # trackers are foreign code, and the training does not depend on them
            if not self._failed:
                logger.warning(
                    "metrics for TensorBoard or W&B cannot be written (%s); the metrics files are not affected",
                    " ".join(str(error).split()) or type(error).__name__,
                )
            self._failed = True
            self._again = self._clock() + self.PAUSE_SECONDS
