"""`muloco paper`: runs all of it, and says what was found."""

import argparse
from pathlib import Path

from muloco.analysis.output import check_folder, writing
from muloco.console import open_console
from muloco.cores import usable_cores
from muloco.errors import UserError
from muloco.paper.design import FULL, QUICK, Design
from muloco.paper.hours import planned_seconds, tokens_per_second
from muloco.paper.page import write_page
from muloco.paper.queue import Queue
from muloco.paper.results import group
from muloco.runs.lock import only_one
from muloco.sweeps.local import run_tasks


def run_paper(command: argparse.Namespace) -> int:
    """Runs what is left of it, and writes the page.

    Returns:
        exit status: 0; 1 where a run has failed.

    Raises:
        UserError: the options cannot be used, or the folder holds other runs.
    """
    at_once = usable_cores() if command.at_once is None else command.at_once
    if at_once < 1:
        raise UserError(f"--at-once must be at least 1; got {at_once}")
    size = QUICK if command.quick else FULL
    design = Design(size)
    queue = Queue(design, Path(command.out or size.folder).absolute())
    check_folder("--out", queue.folder)
    console = open_console(soft_wrap=True, work_behind=True)
    queue.tasks()  # finds what is there
    group(queue, design.settings())  # what cannot be compared is said now
    rate = tokens_per_second(size)
    runs, least, most = planned_seconds(design, queue.losses, rate)
    done = f"{len(queue.losses)} runs are done" if queue.losses else "nothing has been run yet"
    left = f"{runs} runs or more are left, {span(least / at_once, most / at_once)} with {at_once} at once"
    console.print(f"{left if runs else 'no run is left'}, at {rate:,.0f} tokens/s a core; {done}")
    console.print(f"folder: {queue.folder}; whatever stops this, the same command goes on", markup=False)
    if command.plan:
        return 0
    with only_one(queue.folder / ".running", f"another `muloco paper` works in {queue.folder}"):
        queue.remove_broken_studies()
        expected = runs + queue.studies_left
        try:
            failed = run_tasks(queue.tasks, expected=expected, at_once=at_once, threads=1, console=console)
        finally:  # after Ctrl-C as well: of what is there
            queue.tasks()
            with writing("--out", queue.folder):
                write_page(queue, console)
    for name, reason in failed.items():
        console.print(f"failed: {name}: {reason}", style="red", markup=False)
    return 1 if failed else 0


def span(least: float, most: float) -> str:
    """Between two numbers of seconds, in hours or minutes: `about 12 minutes`, `1.5 to 3.2 hours`."""
    unit, size, digits = ("hours", 3600, 1) if most >= 5400 else ("minutes", 60, 0)
    shortest, longest = (f"{max(seconds / size, 1 if size == 60 else 0):.{digits}f}" for seconds in (least, most))
    if shortest != longest:
        return f"{shortest} to {longest} {unit}"
    return f"about {longest} {'minute' if longest == '1' else unit}"
