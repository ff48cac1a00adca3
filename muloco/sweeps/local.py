"""Runs tasks on this machine, several at a time: the jobs of a sweep, and computations on their results."""

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from muloco.errors import UserError
from muloco.launch.processes import Child
from muloco.runs.folder import RunFolder
from muloco.sweeps.expand import Job
from muloco.sweeps.state import other_run, progress

POLL_SECONDS = 0.5
GRACE_SECONDS = 20.0
"""Seconds between asking a run to end and killing it, in which its supervisor ends its workers."""


@dataclass(frozen=True)
class Task:
    """A command of `muloco` that writes some result."""

    name: str
    words: tuple[str, ...]
    """Words of the command line of `muloco`."""
    log: Path
    is_done: Callable[[], bool] = field(compare=False)
    result: Callable[[], str] = field(compare=False, default=lambda: "done")
    """Returns the text to print once it is done."""
    steps: int | None = None
    step: Callable[[], int] = field(compare=False, default=lambda: 0)
    """How many of `steps` it has taken."""


@dataclass
class _Running:
    task: Task
    child: Child
    started: float
    bar: TaskID


def run_tasks(
    pending: Callable[[], Iterable[Task]], *, expected: int = 0, at_once: int, threads: int, console: Console
) -> dict[str, str]:
    """Runs tasks until none is pending.

    Args:
        pending: the tasks that are still to be run, the next one first; asked again whenever one has ended, so that it
            may follow from what was found. Tasks that run, and those that have failed, may be among them.
        expected: how many there will be at least, where more than those now pending.
        at_once: how many run at the same time.
        threads: of each of them.

    Returns:
        by name, why tasks have failed. They are not tried again in this call.
    """
    failed: dict[str, str] = {}
    running: dict[str, _Running] = {}
    ended = 0
    with _bars(console) as bars, _ending(running):
        total = bars.add_task("all", total=None)
        while True:
            left = [task for task in pending() if task.name not in failed]
            for task in left:
                if len(running) < at_once and task.name not in running:
                    bar = bars.add_task(task.name, total=task.steps)
                    running[task.name] = _Running(task, _start(task, threads), time.monotonic(), bar)
            bars.update(total, completed=ended, total=max(expected, ended + len(left)))
            if not running:
                return failed
            for run in _wait_for_end(running, bars):
                task = run.task
                del running[task.name]
                bars.remove_task(run.bar)
                ended += 1
                seconds = f"({time.monotonic() - run.started:.0f} s)"
                if task.is_done():
                    console.print(f"{task.name}: {task.result()} {seconds}", soft_wrap=True)
                else:
                    failed[task.name] = f"{run.child.reason()}; log: {task.log}"
                    console.print(f"{task.name} failed: {failed[task.name]} {seconds}", style="red", soft_wrap=True)


def training(job: Job) -> Task:
    """Returns the run of a job, or what is left of it. Raises UserError if another run is in its folder."""
    if (reason := other_run(job)) is not None:
        raise UserError(reason)
    folder = RunFolder(job.run_folder)
    words = [str(job.config), *job.overrides, "--run.name", job.name, "--run.outputs", str(folder.root.parent)]
    if folder.config.exists():
        words = [str(folder.config), "--resume"]
    return Task(
        job.name,
        ("train", *words),
        log=folder.log("train"),
        is_done=folder.summary.exists,
        result=lambda: f"held-out loss {progress(folder).validation_loss or float('nan'):.4f}",
        steps=job.resolved.training.steps,
        step=lambda: progress(folder).step or 0,
    )


def unfinished(jobs: Iterable[Job]) -> list[Job]:
    """Jobs without a summary in their run folders. Leave out those whose folders hold another run before you ask."""
    return [job for job in jobs if not RunFolder(job.run_folder).summary.exists()]


def _start(task: Task, threads: int) -> Child:
    return Child(
        task.name,
        [sys.executable, "-m", "muloco", *task.words],
        log=task.log,
        environment={"OMP_NUM_THREADS": str(threads)},
        on_line=lambda line: None,
        end_signal=signal.SIGINT,
    )


def _wait_for_end(running: dict[str, _Running], bars: Progress) -> list[_Running]:
    """Waits until at least one task has ended; returns all that have."""
    while True:
        if ended := [run for run in running.values() if run.child.status is not None]:
            return ended
        for run in running.values():
            bars.update(run.bar, completed=run.task.step())
        time.sleep(POLL_SECONDS)


@contextmanager
def _ending(running: dict[str, _Running]) -> Iterator[None]:
    try:
        yield
    finally:
        for run in running.values():
            run.child.ask_to_end()
        for run in running.values():
            run.child.end(GRACE_SECONDS)


def _bars(console: Console) -> Progress:
    times = (TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn(elapsed_when_finished=False))
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), *times)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
