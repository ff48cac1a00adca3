"""Runs rows, each in a process of its own, within a time budget."""

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from muloco.gpu_check.record import FAIL, LEFT_OUT, OK, Outcome, Record
from muloco.gpu_check.row import Row
from muloco.launch.processes import Child

POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0
"""Time between asking a row to end and killing it, in which its own child processes can end."""


@dataclass(frozen=True)
class Limits:
    """What this machine and the user allow."""

    gpus: int
    seconds: float
    """Time limit of the whole call."""
    at_once: int
    """Number of rows that may run side by side."""
    threads: int
    """Number of CPU threads of all running rows together."""
    stretch: float = 1.0
    """Factor on the time limits of the rows."""
    estimates: bool = True
    """Whether a row is left out when less time is left than it takes on an H100."""
    devices: tuple[str, ...] = ()
    """The GPUs, as CUDA_VISIBLE_DEVICES names them; a row sees only as many as it needs."""
    memory_gib: float = math.inf
    """Memory of each GPU, in GiB."""


@dataclass
class _Running:
    row: Row
    child: Child
    outcome: Path
    began: float
    until: float
    cut: bool
    """Whether `until` is the end of the whole call instead of the time limit of the row."""


class Runner:
    """Runs rows in order: first those that may run side by side, then those that run alone.

    Args:
        record: receives the outcome of each row.
        limits: the limits of this call.
        scratch: a folder that the rows share. Their logs go to `logs` in the folder of the record.
        command: returns the command that runs a row and writes its outcome to the given file.
        console: shows one line for each row that ends.
    """

    def __init__(
        self,
        record: Record,
        limits: Limits,
        *,
        scratch: Path,
        command: Callable[[Row, Path], Sequence[str]],
        console: Console,
    ):
        self._record, self._limits, self._console = record, limits, console
        self._scratch, self._command = scratch, command
        self._logs = record.path.parent / "logs"
        self._began = time.monotonic()
        self._end = self._began + limits.seconds
        self._running: list[_Running] = []

    def run(self, rows: Sequence[Row]) -> None:
        """Runs the rows; returns when each has an outcome in the record."""
        pending = sorted(rows, key=lambda row: row.alone)
        self._total = len(pending)
        try:
            while pending or self._running:
                pending = self._start_what_can(pending)
                time.sleep(POLL_SECONDS if self._running else 0)
                for running in [one for one in self._running if self._has_ended(one)]:
                    self._running.remove(running)
        finally:  # after Ctrl-C as well
            for running in self._running:
                running.child.end(GRACE_SECONDS)

    def _start_what_can(self, pending: list[Row]) -> list[Row]:
        """Starts rows in order until one has to wait for a running one; returns the rows that are still pending."""
        left = []
        for place, row in enumerate(pending):
            if self._waits_for_another(row):
                left.append(row)
            elif (reason := self._why_left_out(row)) is not None:
                self._tell(row, Outcome(LEFT_OUT, reason))
            elif self._running and (row.alone or self._running[0].row.alone or self._is_full()):
                return [*left, *pending[place:]]
            else:
                self._start(row)
        return left

    def _is_full(self) -> bool:
        return len(self._running) >= self._limits.at_once

    def _waits_for_another(self, row: Row) -> bool:
        ended = self._record.ended
        return any(name not in ended for name in row.after)

    def _why_left_out(self, row: Row) -> str | None:
        if row.gpus > self._limits.gpus:
            return f"it needs {row.gpus} GPUs; there {'is' if self._limits.gpus == 1 else 'are'} {self._limits.gpus}"
        if row.memory_gib > self._limits.memory_gib:
            return f"it needs a GPU of {row.memory_gib:g} GiB; this one has {self._limits.memory_gib:g}"
        for name in row.after:
            if (status := self._record.outcomes[name].status) != OK:
                return f"it depends on {name}, which {'failed' if status == FAIL else 'was left out'}"
        remaining = self._end - time.monotonic()
        if remaining < (row.seconds if self._limits.estimates else 0):
            return f"too little time is left: {max(0, remaining):.0f} s of the estimated {row.seconds:.0f} s"
        return None

    def _start(self, row: Row) -> None:
        outcome = self._scratch / "outcomes" / f"{row.name}.json"
        outcome.parent.mkdir(parents=True, exist_ok=True)
        threads = max(1, self._limits.threads // (1 if row.alone else self._limits.at_once))
        began = time.monotonic()
        own_end = began + row.limit * self._limits.stretch
        environment = {"OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_COMPILE_THREADS": str(threads)}
        if self._limits.devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._limits.devices[: row.gpus])
        child = Child(
            row.name,
            self._command(row, outcome),
            log=self._logs / f"{row.name}.log",
            environment=environment,
            on_line=lambda line: None,
        )
        self._running.append(_Running(row, child, outcome, began, min(own_end, self._end), self._end < own_end))

    def _has_ended(self, running: _Running) -> bool:
        now = time.monotonic()
        status = running.child.status
        if status is None and now < running.until:
            return False
        seconds = now - running.began
        if status is None:
            running.child.end(GRACE_SECONDS)
            if running.cut:
                found = Outcome(
                    LEFT_OUT, f"the time of the whole call ended {seconds:.0f} s after this row was started", seconds
                )
            else:
                found = Outcome(FAIL, f"it exceeded its time limit: it was ended after {seconds:.0f} s", seconds)
        else:
            running.child.end(GRACE_SECONDS)  # processes that it may have left running
            found = self._outcome(running, seconds)
        self._tell(running.row, found)
        return True

    def _outcome(self, running: _Running, seconds: float) -> Outcome:
        try:
            found = json.loads(running.outcome.read_text())
        except (OSError, ValueError):  # its process ended before it wrote an outcome
            return Outcome(FAIL, running.child.reason(), seconds)
        if "left_out" in found:
            return Outcome(LEFT_OUT, found["left_out"], seconds)
        if "reason" in found:
            return Outcome(FAIL, " ".join(found["reason"].split()), seconds)
        return Outcome(OK, "", seconds, found["figures"])

    def _tell(self, row: Row, outcome: Outcome) -> None:
        elapsed = time.monotonic() - self._began
        self._record.set(row.name, outcome, seconds=elapsed)
        reason = f": {outcome.reason}" if outcome.reason else ""
        done = f"{len(self._record.ended)}/{self._total}"
        self._console.print(f"{elapsed:6.0f} s  {done:>6}  {outcome.status:8}  {row.name}{reason}", markup=False)


def row_command(scratch: Path, *, rehearsal: bool) -> Callable[[Row, Path], Sequence[str]]:
    """Returns a function that makes the command of a row: a process of `muloco.gpu_check.one_row`.

    Args:
        scratch: a folder that the rows share.
        rehearsal: whether the rows run on the CPU at small sizes.
    """

    def command(row: Row, outcome: Path) -> list[str]:
        words = [sys.executable, "-m", "muloco.gpu_check.one_row", row.name, str(scratch), str(outcome)]
        return [*words, "--rehearse"] if rehearsal else words

    return command
