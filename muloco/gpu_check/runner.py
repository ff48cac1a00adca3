"""Runs rows, each in a process of its own, within a time budget."""

import json
import math
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.status import Status

from muloco.gpu_check.record import FAIL, LEFT_OUT, OK, TIME_IS_UP, Outcome, Record
from muloco.gpu_check.row import Row
from muloco.gpu_check.table import WIDTH, checks, terminal_width
from muloco.launch.processes import Child

POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0
"""Time between asking a row to end and killing it, in which its own child processes can end."""
INDENT = 28
"""Number of characters before the text of a line: time, count and status."""
LONG_SECONDS = 20.0
"""A log shows the start of rows with a longer estimate; a terminal always shows what is running."""
SLACK_SECONDS = 120.0
"""A row that takes longer than this and three times its estimate has failed."""


@dataclass(frozen=True)
class Limits:
    """The limits that this machine and the user set."""

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
    """Whether a row takes about as long as on an H100. If so, it is left out when less time is left than that."""
    devices: tuple[str, ...] = ()
    """The GPUs, as CUDA_VISIBLE_DEVICES names them; a row sees only as many as it needs."""
    memory_gib: float = math.inf
    """Memory of each GPU, in GiB."""


@dataclass(frozen=True)
class _Running:
    row: Row
    child: Child
    outcome: Path
    began: float
    until: float


class Runner:
    """Runs rows in order: first those that may run side by side, then those that run alone.

    Args:
        record: receives the outcome of each row.
        limits: the limits of this call.
        scratch: a folder that the rows share. Their logs go to `logs` in the folder of the record.
        command: returns the command that runs a row and writes its outcome to the given file.
        console: shows one line for each row that ends, and on a terminal a line with the rows that are running.
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
        with self._console.status("", spinner="line") as live:  # shows nothing where there is no terminal
            try:
                while pending or self._running:
                    pending = self._start_what_can(pending)
                    self._show_running(live)
                    time.sleep(POLL_SECONDS if self._running else 0)
                    self._running = [running for running in self._running if not self._has_ended(running)]
            finally:  # after Ctrl-C as well
                for running in self._running:
                    running.child.end(GRACE_SECONDS)
        self._tell_left_out()

    def _start_what_can(self, pending: list[Row]) -> list[Row]:
        """Starts rows in order until one has to wait for a running one; returns the rows that are still pending."""
        left = []
        for place, row in enumerate(pending):
            if row.after and row.after not in self._record.ended:
                left.append(row)
            elif (outcome := self._left_out(row)) is not None:
                self._tell(row, outcome)
            elif self._running and (
                row.alone or self._running[0].row.alone or len(self._running) >= self._limits.at_once
            ):
                return [*left, *pending[place:]]
            else:
                self._start(row)
        return left

    def _left_out(self, row: Row) -> Outcome | None:
        """Returns the outcome of a row that cannot run; None if it can."""
        gpus, memory = self._limits.gpus, self._limits.memory_gib
        if row.gpus > gpus:
            return Outcome(LEFT_OUT, f"it needs {row.gpus} GPUs; there {'is' if gpus == 1 else 'are'} {gpus}")
        if row.memory_gib > memory:
            return Outcome(LEFT_OUT, f"it needs a GPU of {row.memory_gib:g} GiB; this one has {memory:g}")
        remaining = self._end - time.monotonic()
        if self._limits.estimates and remaining < row.seconds:
            reason = f"too little time is left: {max(0, remaining):.0f} s of the estimated {row.seconds:.0f} s"
            return Outcome(LEFT_OUT, reason, cause=TIME_IS_UP)
        if remaining < 0:
            return Outcome(LEFT_OUT, TIME_IS_UP, cause=TIME_IS_UP)
        if row.after and (other := self._record.outcomes[row.after]).status != OK:
            reason = f"it depends on {row.after}, which {'failed' if other.status == FAIL else 'was left out'}"
            return Outcome(LEFT_OUT, reason, cause=other.cause)
        return None

    def _start(self, row: Row) -> None:
        outcome = self._scratch / "outcomes" / f"{row.name}.json"
        outcome.parent.mkdir(parents=True, exist_ok=True)
        threads = max(1, self._limits.threads // (1 if row.alone else self._limits.at_once))
        began = time.monotonic()
        until = began + (SLACK_SECONDS + 3 * row.seconds) * self._limits.stretch
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
        self._running.append(_Running(row, child, outcome, began, min(until, self._end)))
        if row.seconds > LONG_SECONDS and not self._console.is_interactive:
            self._say("started", f"{row.name}{f' (about {row.seconds:.0f} s)' if self._limits.estimates else ''}")

    def _has_ended(self, running: _Running) -> bool:
        status, now = running.child.status, time.monotonic()
        if status is None and now < running.until:
            return False
        running.child.end(GRACE_SECONDS)  # with all processes that it may have left running
        seconds = now - running.began
        if status is not None:
            outcome = _outcome(running, seconds)
        elif running.until == self._end:
            reason = f"the time of the whole call ended {seconds:.0f} s after this row was started"
            outcome = Outcome(LEFT_OUT, reason, seconds)
        else:
            outcome = Outcome(FAIL, f"it exceeded its time limit: it was ended after {seconds:.0f} s", seconds)
        self._tell(running.row, outcome)
        return True

    def _tell(self, row: Row, outcome: Outcome) -> None:
        self._record.set(row.name, outcome, seconds=self._elapsed)
        if not outcome.cause:  # the others have one line at the end
            self._say(outcome.status, f"{row.name}{f': {outcome.reason}' if outcome.reason else ''}")

    def _tell_left_out(self) -> None:
        """Prints one line with all rows for which no time was left, wrapped at the width of the terminal."""
        if names := [name for name, outcome in self._record.outcomes.items() if outcome.cause == TIME_IS_UP]:
            text = f"{checks(len(names))}, as {TIME_IS_UP}: {', '.join(names)}"
            width = max(30, (terminal_width(self._console) or WIDTH) - INDENT)
            self._say(LEFT_OUT, f"\n{' ' * INDENT}".join(textwrap.wrap(text, width)))

    def _say(self, status: str, text: str) -> None:
        done = f"{len(self._record.ended)}/{self._total}"
        self._console.print(f"{self._elapsed:6.0f} s  {done:>6}  {status:8}  {text}", markup=False)

    def _show_running(self, live: Status) -> None:
        now = time.monotonic()
        rows = ", ".join(f"{running.row.name} {now - running.began:.0f} s" for running in self._running)
        text = f"running: {rows}; {len(self._record.ended)} of {self._total} done, {self._elapsed:.0f} s"
        live.update(textwrap.shorten(text, max(30, self._console.width - 3), placeholder=" ..."))

    @property
    def _elapsed(self) -> float:
        """Seconds since the start of the call."""
        return time.monotonic() - self._began


def _outcome(running: _Running, seconds: float) -> Outcome:
    """Returns the outcome that the process of a row has written, or the reason why it wrote none."""
    try:
        written = json.loads(running.outcome.read_text())
    except (OSError, ValueError):
        return Outcome(FAIL, running.child.reason(), seconds)
    return Outcome(written["status"], " ".join(written.get("reason", "").split()), seconds, written.get("figures", {}))


def row_command(row: Row, outcome: Path, *, scratch: Path, rehearsal: bool) -> list[str]:
    """Returns the command of the process of a row (`muloco.gpu_check.one_row`).

    Args:
        row: the row.
        outcome: file that the process writes.
        scratch: a folder that the rows share.
        rehearsal: whether the row runs on the CPU at small sizes.
    """
    command = [sys.executable, "-m", "muloco.gpu_check.one_row", row.name, str(scratch), str(outcome)]
    return [*command, "--rehearse"] if rehearsal else command
