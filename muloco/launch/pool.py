"""The pool of a run's worker processes, which are restarted when they are lost."""

import logging
import re
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from muloco.errors import LASTING, AttemptFailed
from muloco.launch.processes import Child

logger = logging.getLogger(__name__)

FIRST_BACK_OFF, LONGEST_BACK_OFF = 1.0, 60.0
"""Seconds before a lost worker is started again; they double with each time."""
STABLE_SECONDS = 60.0
"""Seconds of work after which a worker no longer counts as failing again and again: its restarts and its back-off start
again from zero."""
LAST_SECONDS = 60.0
"""From the first worker that is done to the end: all that take part in the last sync are done about then."""
FAILURE_SECONDS = 3.0
"""After a failure that ends the run, time for others to fail too, so that the cause is told from its consequences."""
SILENT_SECONDS = 1800.0
"""Seconds without output after which a worker that was asked to stop is ended: it neither trains nor saves any more."""
_ENDED_BY_ASKING = (-signal.SIGUSR1, 128 + signal.SIGUSR1)
"""Exit statuses of a process that the request to stop has ended: it had just begun, or it is torchrun, whose ranks have
stopped."""
_FROM_OUTSIDE = ("killed by SIGKILL", "killed by SIGTERM", "killed by SIGINT", "killed by SIGHUP")


@dataclass
class _Slot:
    """The slot of one worker, across restarts."""

    child: Child
    started: float
    restarts: int = 0
    consecutive_restarts: int = 0
    """Restarts since it last ran for long."""
    back_off: float = FIRST_BACK_OFF
    due: float | None = None
    """When it is to be started again; None: it runs, is done, or is given up."""
    lost: bool = False
    trained: bool = False
    """Whether it has taken a step in this attempt at the run."""
    reasons: list[str] = field(default_factory=list)
    """The reasons of its losses, in order."""

    @property
    def hopeless(self) -> bool:
        """Whether it has failed twice in the same way before its first step, so that another start would fail, too. A
        kill from outside does not count as a failure."""
        # without ports, addresses and times, which differ from one failure to the next
        last = [re.sub(r"0x[0-9a-f]+|\d+", "", reason) for reason in self.reasons[-2:]]
        return not self.trained and len(last) == 2 and last[0] == last[1] and not last[0].startswith(_FROM_OUTSIDE)

    @property
    def at_fault(self) -> bool:
        return self.hopeless or not recoverable(self.child)


class WorkerPool:
    """The workers of a run.

    Args:
        least: fewest workers that can go on. If fewer are left, none is started again, and the pool waits until the
            others end: they hold the state of the run, and save it if nobody joins them.
        restarts: how often in a row each of them may be started again.
    """

    def __init__(self, start: Callable[[int], Child], *, workers: int, least: int, restarts: int):
        self._start = start
        self._least = least
        self._limit = restarts
        self._slots = [_Slot(child=start(worker), started=time.monotonic()) for worker in range(workers)]
        self._first_done: float | None = None
        self._stopping: list[Child] = []
        """Processes of workers that have been asked to stop."""

    @property
    def restarts(self) -> int:
        """How often workers have been started again."""
        return sum(slot.restarts for slot in self._slots)

    @property
    def children(self) -> list[Child]:
        return [slot.child for slot in self._slots]

    def away(self) -> dict[int, float | None]:
        """Lost workers, with the seconds until each is restarted, or None if it is not restarted."""
        now = time.monotonic()
        lost = {worker: None for worker, slot in enumerate(self._slots) if slot.lost}
        return {**lost, **{w: max(0.0, slot.due - now) for w, slot in enumerate(self._slots) if slot.due is not None}}

    def take_note(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Notes from new lines of metrics which workers train."""
        for line in lines:
            if "loss" in line or line.get("event") == "sync":
                for slot in self._slots[line["worker"] : line["worker"] + 1]:  # none, where one process holds several
                    slot.trained = True

    def watch(self) -> bool:
        """Notices lost workers and starts those that are due. To be called again and again. Returns whether the run is
        over, successfully or not."""
        if self._stopping:
            self._end_silent()
            return all(child.status is not None for child in self._stopping)
        now = time.monotonic()
        for worker, slot in enumerate(self._slots):
            if slot.due is not None and now >= slot.due and self._first_done is None:
                slot.child, slot.started, slot.due = self._start(worker), now, None
                slot.restarts += 1
                slot.consecutive_restarts += 1
            elif slot.due is None and not slot.lost and slot.child.status:
                self._lose(slot, now)
        running = [slot for slot in self._slots if slot.due is None and slot.child.status is None]
        done = [slot for slot in self._slots if slot.due is None and slot.child.status == 0]
        if done and self._first_done is None:
            self._first_done = now
        if self._first_done is not None:
            return not running or now > self._first_done + LAST_SECONDS
        back_soon = any(slot.due is not None for slot in self._slots)
        is_fatal = any(slot.lost and slot.at_fault for slot in self._slots)
        return is_fatal or not (running or back_soon)

    def failures(self) -> list[Child]:
        """Returns the workers that are the cause if the run is over without having reached its end."""
        if self._stopping:
            return [child for child in self._stopping if child.status not in (None, 0, *_ENDED_BY_ASKING)]
        if self._first_done is not None:
            return []
        time.sleep(FAILURE_SECONDS)
        failed = [slot for slot in self._slots if slot.child.status]
        at_fault = [slot for slot in failed if slot.at_fault]
        gone = [slot for slot in failed if slot.lost or slot.due is not None]
        return [slot.child for slot in at_fault or gone or failed]

    def may_pass(self) -> bool:
        """Whether another attempt at the run may succeed, once this one has failed."""
        return not any(slot.hopeless or slot.child.status in LASTING for slot in self._slots)

    def stop(self) -> None:
        """Asks all workers to stop after their next sync; none is started again."""
        if not self._stopping:
            self._stopping = [child for child in self.children if child.status is None]
            for child in self._stopping:
                child.ask_to_stop()

    def _end_silent(self) -> None:
        for child in self._stopping:
            if child.status is None and child.silent_seconds > SILENT_SECONDS:
                logger.warning(
                    "%s was asked to stop and has had no output for %.0f s; it is ended (log: %s)",
                    child.name,
                    child.silent_seconds,
                    child.log,
                )
                child.end(grace_seconds=1)

    def _lose(self, slot: _Slot, now: float) -> None:
        slot.reasons.append(slot.child.reason())
        logger.warning("%s was lost: %s", slot.child.name, slot.reasons[-1])
        if now > slot.started + STABLE_SECONDS:
            slot.back_off, slot.consecutive_restarts = FIRST_BACK_OFF, 0
        if self._first_done is not None:
            slot.lost = True  # what it would come back to is over
        elif slot.hopeless:
            logger.error("%s has failed twice in the same way before its first step", slot.child.name)
            slot.lost = True
        elif recoverable(slot.child) and slot.consecutive_restarts < self._limit and self._enough():
            logger.warning("%s is started again in %g s", slot.child.name, slot.back_off)
            slot.due = now + slot.back_off
            slot.back_off = min(2 * slot.back_off, LONGEST_BACK_OFF)
        else:
            slot.lost = True
            if not self._enough() and not all(other.lost for other in self._slots):
                logger.warning(
                    "fewer than %d workers are left (fault_tolerance.min_replica_size), and none is started again; the "
                    "others save a checkpoint and end if nobody comes within fault_tolerance.quorum_timeout_seconds",
                    self._least,
                )

    def _enough(self) -> bool:
        """Whether enough workers are left, including those that are about to be started again."""
        return sum(not slot.lost for slot in self._slots) >= self._least


def recoverable(child: Child) -> bool:
    """Whether a process that has ended may succeed when it is started again: it was killed, or it lost its peers or its
    device."""
    return child.status not in (*LASTING, AttemptFailed.exit_status)
