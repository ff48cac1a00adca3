"""`muloco reproduce`: check the paper's claims on this machine."""

import argparse
from pathlib import Path

from muloco.commands.parser import Commands, add_command
from muloco.console import open_console
from muloco.reproduce.design import FULL, QUICK, Design
from muloco.settings.annotations import Count
from muloco.settings.values import option_type

DESCRIPTION = """Check the paper's claims at a size for two CPU cores, on the embedded corpus: data-parallel AdamW and
Muon, DiLoCo and MuLoCo with 1 to 8 workers, each at its best inner learning rate with three seeds; critical batches,
bits, fragments, pseudogradients; and four studies beyond the paper. The command first says how long it takes, continues
where it was stopped, and ends with a page of claims, tables and figures. docs/claims.md shows such a page."""


def add(commands: Commands) -> None:
    summary = "check the paper's claims on this machine"
    parser = add_command(
        commands, "reproduce", run, summary=summary, usage="[--quick] [options]", description=DESCRIPTION
    )
    parser.add_argument("--quick", action="store_true", help="a small part of it, in a quarter of an hour on two cores")
    parser.add_argument("--out", metavar="DIR", help=f"folder (default: {FULL.folder}, or {QUICK.folder} with --quick)")
    meaning = "runs at the same time (default: one per core)"
    parser.add_argument("--at-once", type=option_type(Count), metavar="N", help=meaning)
    parser.add_argument("--plan", action="store_true", help="say what is left to be run and how long it takes, and end")


def run(args: argparse.Namespace) -> int:
    """Runs what is left to be run, and writes the page. Returns 0, or 1 if a run has failed."""
    from muloco.analysis.output import check_folder, writing
    from muloco.cores import usable_cores
    from muloco.reproduce.hours import planned_seconds, span, tokens_per_second
    from muloco.reproduce.page import write_page
    from muloco.reproduce.queue import Queue
    from muloco.reproduce.results import group
    from muloco.runs.lock import only_one
    from muloco.sweeps.local import run_tasks

    at_once = args.at_once or usable_cores()
    size = QUICK if args.quick else FULL
    design = Design(size)
    queue = Queue(design, Path(args.out or size.folder).absolute())
    check_folder("--out", queue.folder)
    console = open_console(soft_wrap=True, work_behind=True)
    queue.tasks()  # finds what is there
    group(queue, design.settings)  # what cannot be compared is said now
    rate = tokens_per_second(size)
    runs, least, most = planned_seconds(design, queue.losses, rate)
    done = f"{len(queue.losses)} runs are done" if queue.losses else "nothing has been run yet"
    left = f"{runs} runs or more are left, {span(least / at_once, most / at_once)} with {at_once} at once"
    console.print(f"{left if runs else 'no run is left'}, at {rate:,.0f} tokens/s a core; {done}")
    console.print(f"folder: {queue.folder}; if interrupted, run the same command to continue")
    if args.plan:
        return 0
    with only_one(queue.folder / ".running", f"another `muloco reproduce` works in {queue.folder}"):
        queue.remove_broken_studies()
        expected = runs + queue.studies_left
        try:
            failed = run_tasks(queue.tasks, expected=expected, at_once=at_once, threads=1, console=console)
        finally:  # after Ctrl-C as well: a page of the runs that are there
            queue.tasks()
            with writing("--out", queue.folder):
                write_page(queue, console)
    for name, reason in failed.items():
        console.print(f"failed: {name}: {reason}", style="red")
    return 1 if failed else 0
