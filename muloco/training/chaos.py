"""Fault injection: a worker is killed, stopped for a while or cut off, on a schedule that all workers can compute.

Time is divided into slots. Each has one victim, one kind and one phase (a failpoint of `muloco.failpoints`); the victim
strikes itself when it first reaches that phase in the slot. So no two workers are struck at once, as long as they
recover within a slot. Of a worker with several ranks, one is struck. A worker that runs does not join: for a fault in
that phase it is killed first.
"""

import logging
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from muloco.failpoints import FAILPOINTS
from muloco.settings.fault_tolerance import Chaos

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """The fault of a slot."""

    worker: int
    rank: int
    """Rank of the worker that is struck."""
    kind: str
    phase: str

    @property
    def strikes(self) -> list[tuple[str, str]]:
        """Returns the faults that the victim injects into itself, one after the other, as (kind, phase)."""
        before = [("kill", "inner_step")] if self.phase == "join" else []
        return [*before, (self.kind, self.phase)]


class FaultSchedule:
    """Decides which worker is struck when, how and in which phase.

    Args:
        chosen: the config's section, with an interval.
        workers: number of workers, K.
        ranks: of each worker.
    """

    def __init__(self, chosen: Chaos, *, workers: int, ranks: int = 1):
        assert chosen.interval_seconds is not None
        self._interval = chosen.interval_seconds
        self._chosen = chosen
        self._workers = workers
        self._ranks = ranks

    def slot(self, now: float) -> int:
        """Returns the slot of a moment (seconds since 1970)."""
        return int(now // self._interval)

    def fault(self, slot: int) -> Fault:
        """Returns the fault of a slot. Over the slots, all kinds, all phases and all workers take turns."""
        kinds = self._chosen.kinds
        phase, round_ = slot % len(FAILPOINTS), slot // len(FAILPOINTS)
        turn = list(range(self._workers))
        random.Random(f"{self._chosen.seed} {slot // self._workers}").shuffle(turn)
        return Fault(
            worker=turn[slot % self._workers],
            rank=random.Random(f"{self._chosen.seed} {slot} rank").randrange(self._ranks),
            kind=kinds[(round_ + phase) % len(kinds)],
            phase=FAILPOINTS[phase],
        )


class FaultInjector:
    """A listener of `muloco.failpoints` that strikes this process.

    Args:
        schedule: who is struck.
        worker: which worker this process belongs to.
        rank: which of the worker's ranks it is.
        earlier: when this worker was struck so far, maybe as another process: seconds since 1970.
        stop_seconds: how long it stands still when it is stopped.
        cut: breaks its connections to other workers.
        tell: called with (kind, phase) before it is struck.
    """

    def __init__(
        self,
        schedule: FaultSchedule,
        *,
        worker: int,
        rank: int,
        earlier: Iterable[float],
        stop_seconds: float,
        cut: Callable[[], None],
        tell: Callable[[str, str], None],
    ):
        self._schedule = schedule
        self._who = (worker, rank)
        slots = [schedule.slot(when) for when in earlier]
        self._struck = Counter(slots)
        self._last = slots[-1] if slots else -1
        """Slot in which this worker was struck last."""
        self._stop_seconds = stop_seconds
        self._cut = cut
        self._tell = tell

    def __call__(self, phase: str) -> None:
        for slot in (self._last, self._schedule.slot(time.time())):  # a worker that was killed may join in a later slot
            fault = self._schedule.fault(slot)
            left = fault.strikes[self._struck[slot] :]
            if slot >= 0 and (fault.worker, fault.rank) == self._who and left and left[0][1] == phase:
                self._struck[slot] += 1
                self._last = slot
                self._strike(left[0][0], phase)
                return

    def _strike(self, kind: str, phase: str) -> None:
        self._tell(kind, phase)
        logger.warning("chaos: %s in phase %s", kind, phase)
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "stop":
            wake = f"sleep {self._stop_seconds}; kill -CONT {os.getpid()}"
            subprocess.Popen(["sh", "-c", wake], start_new_session=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            self._cut()
