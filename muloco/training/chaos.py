"""Faults on demand: a worker is killed, stopped for a while or cut off, on a schedule that all workers can compute.

Time is divided into slots. Each has one victim, one kind and one phase; the victim strikes itself when it first reaches
that phase in the slot. So no two workers are struck at once, as long as they recover within a slot.
"""

import logging
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable

from muloco.phases import PHASES
from muloco.training.config import Chaos

logger = logging.getLogger(__name__)


class FaultSchedule:
    """Who is struck when, how and where.

    Args:
        chosen: the config's section, with an interval.
        workers: number of workers, K.
    """

    def __init__(self, chosen: Chaos, *, workers: int):
        assert chosen.interval_seconds is not None
        self._chosen = chosen
        self._workers = workers

    def slot(self, now: float) -> int:
        assert self._chosen.interval_seconds is not None
        return int(now // self._chosen.interval_seconds)

    def fault(self, slot: int) -> tuple[int, str, str]:
        """(worker, kind, phase) of a slot: all kinds in all phases, one after the other."""
        kinds = self._chosen.kinds
        phase, round_ = slot % len(PHASES), slot // len(PHASES)
        victim = random.Random(f"{self._chosen.seed} {slot}").randrange(self._workers)
        return victim, kinds[(round_ + phase) % len(kinds)], PHASES[phase]


class FaultInjector:
    """A listener of `muloco.phases` that strikes this process.

    Args:
        schedule: who is struck.
        worker: which worker this process belongs to.
        stop_seconds: how long it stands still when it is stopped.
        cut: breaks its connections to other workers.
        tell: called with (kind, phase) before it is struck.
    """

    def __init__(
        self,
        schedule: FaultSchedule,
        *,
        worker: int,
        stop_seconds: float,
        cut: Callable[[], None],
        tell: Callable[[str, str], None],
    ):
        self._schedule = schedule
        self._worker = worker
        self._stop_seconds = stop_seconds
        self._cut = cut
        self._tell = tell
        self._struck = schedule.slot(time.time())  # not in the slot in which it starts

    def __call__(self, phase: str) -> None:
        slot = self._schedule.slot(time.time())
        victim, kind, where = self._schedule.fault(slot)
        if victim != self._worker or where != phase or slot == self._struck:
            return
        self._struck = slot
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
