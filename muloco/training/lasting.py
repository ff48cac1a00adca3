"""Trackers of metrics, such as TensorBoard, whose failures do not end the training. Needs nothing but Python."""

import logging
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
    """A tracker that drops its values if its files cannot be written; the log says so once.

    Args:
        tracker: the tracker that writes.
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
                    "metrics for TensorBoard or W&B cannot be written (%s); the metrics files are not affected",
                    error,
                )
            self._failed = True
