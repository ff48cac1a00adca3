"""Trackers of metrics, such as TensorBoard, that end nothing but themselves. Needs nothing but Python."""

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Takes a worker's metrics, besides its own metrics file."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Takes values after inner step `step`."""
        ...

    def close(self) -> None: ...


class LastingTracker:
    """A tracker that goes on without its files where they cannot be written; the log says so once.

    Args:
        tracker: the one that writes.
    """

    def __init__(self, tracker: Tracker):
        self._tracker = tracker
        self._failed = False

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._lasting(lambda: self._tracker.log(values, step))

    def close(self) -> None:
        self._lasting(self._tracker.close)

    def _lasting(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if not self._failed:
                logger.warning(
                    "metrics for TensorBoard or W&B cannot be written (%s); those of the run folder go on", error
                )
            self._failed = True
