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
    """A tracker that drops its values for a while if it fails, such as where its files cannot be written; the log says
    so once.

    Args:
        tracker: the tracker that writes; it is called again after a failure.
        clock: seconds.
    """

    PAUSE_SECONDS = 60.0
    """From a failure to the next try."""

    def __init__(self, tracker: Tracker, clock: Callable[[], float] = time.monotonic):
        self._tracker, self._clock = tracker, clock
        self._failed = False
        self._again = -math.inf
        """When it may be called again."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        if self._clock() >= self._again:
            self._lasting(lambda: self._tracker.log(values, step))

    def close(self) -> None:
        self._lasting(self._tracker.close)

    def _lasting(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:  # a tracker is a program of its own, and the training does not depend on it
            if not self._failed:
                logger.warning(
                    "metrics for TensorBoard or W&B cannot be written (%s); the metrics files are not affected",
                    " ".join(str(error).split()) or type(error).__name__,
                )
            self._failed = True
            self._again = self._clock() + self.PAUSE_SECONDS
