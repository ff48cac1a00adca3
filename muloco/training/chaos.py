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
from dataclasses import InitVar, dataclass

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


@dataclass(frozen=True)
class FaultSchedule:
    """Decides which worker is struck when, how and in which phase."""

    chosen: Chaos
    """The config's section, with an interval."""
    workers: int
    """Number of workers, K."""
    ranks: int = 1
    """Ranks of each worker."""

    def slot(self, now: float) -> int:
        """Returns the slot of a moment (seconds since 1970)."""
        assert self.chosen.interval_seconds is not None
        return int(now // self.chosen.interval_seconds)

    def fault(self, slot: int) -> Fault:
        """Returns the fault of a slot. Over the slots, all kinds, all phases and all workers take turns."""
        kinds, seed = self.chosen.kinds, self.chosen.seed
        phase, round_ = slot % len(FAILPOINTS), slot // len(FAILPOINTS)
        turn = list(range(self.workers))
        random.Random(f"{seed} {slot // self.workers}").shuffle(turn)
        return Fault(
            worker=turn[slot % self.workers],
            rank=random.Random(f"{seed} {slot} rank").randrange(self.ranks),
            kind=kinds[(round_ + phase) % len(kinds)],
            phase=FAILPOINTS[phase],
        )


@dataclass(kw_only=True)
class FaultInjector:
    """A listener of `muloco.failpoints` that strikes this process."""

    schedule: FaultSchedule
    worker: int
    """Worker that this process belongs to."""
    rank: int
    """Rank of this process in the worker."""
    earlier: InitVar[Iterable[float]]
    """Times at which this worker was struck so far, maybe as another process: seconds since 1970."""
    cut: Callable[[], None]
    """Breaks the connections of this process to other workers."""
    tell: Callable[[str, str], None]
    """Called with (kind, phase) before this process is struck."""

    def __post_init__(self, earlier: Iterable[float]) -> None:
        slots = [self.schedule.slot(when) for when in earlier]
        self._struck = Counter(slots)
        self._last = slots[-1] if slots else -1
        """Slot in which this worker was struck last."""

    def __call__(self, phase: str) -> None:
        for slot in (self._last, self.schedule.slot(self._now())):  # a worker that was killed may join in a later slot
            fault = self.schedule.fault(slot)
            left = fault.strikes[self._struck[slot] :]
            here = (fault.worker, fault.rank) == (self.worker, self.rank)
            if slot >= 0 and here and left and left[0][1] == phase:
                self._struck[slot] += 1
                self._last = slot
                self._strike(left[0][0], phase)
                return

    def _now(self) -> float:
        return time.time()

    def _strike(self, kind: str, phase: str) -> None:
        self.tell(kind, phase)
        logger.warning("chaos: %s in phase %s", kind, phase)
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "stop":
            wake = f"sleep {self.schedule.chosen.stop_seconds}; kill -CONT {os.getpid()}"
            subprocess.Popen(["sh", "-c", wake], start_new_session=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            self.cut()
