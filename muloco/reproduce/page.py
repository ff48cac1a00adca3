"""The page: claims, tables, figures, and the report of the runs beside it."""

import csv
import platform
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from muloco.analysis.chart import Figure
from muloco.analysis.draw import draw
from muloco.analysis.report.command import run_report
from muloco.analysis.table import markdown_lines
from muloco.reproduce.design import BATCH, FLAVOR, SEEDS, SYNC_STEPS
from muloco.reproduce.figure import figure
from muloco.reproduce.queue import Queue
from muloco.reproduce.results import by_batch, claims, final_losses, run_folders, searches, study_table

PAGE = "paper.md"
RUNS = "runs.csv"
REPORT = "report"


def write_page(queue: Queue, console: Console) -> Path:
    """Writes paper.md and its figure, runs.csv with the loss of every run, and a report over the runs of the claims at
    the usual batch.

    Returns:
        paper.md.
    """
    found = figure(queue)
    if found.panels:
        draw(found, queue.folder)
    path = queue.folder / PAGE
    path.write_text("\n".join(_lines(queue, found)) + "\n", encoding="utf-8")
    runs = sorted((trial.setting.name, trial.lr, trial.seed, loss) for trial, loss in queue.losses.items())
    with (queue.folder / RUNS).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("setting", "inner_lr", "seed", "loss"), *runs])
    usual = [setting for setting in queue.design.claimed if setting not in queue.design.by_batch]
    folders = run_folders(queue, usual)
    run_report(folders, out=queue.folder / REPORT, published=False, console=Console(quiet=True))
    console.print(f"{path}; tables and figures of the runs: {queue.folder / REPORT / 'report.html'}", markup=False)
    return path


def _lines(queue: Queue, drawn: Figure) -> Iterator[str]:
    size = queue.design.size
    yield from ("# The paper's claims at a small size", "")
    yield from (
        f"{len(queue.losses)} runs of the flavor {FLAVOR} on the embedded corpus (the standard library of Python "
        f"{platform.python_version()}), each of {size.tokens:,} tokens: {size.steps} inner steps of {BATCH} "
        f"sequences of {size.seq_len} tokens, H = {SYNC_STEPS}, warm-up over 5 % of the steps, all K workers in "
        f"one process. The inner learning rate of a setting was searched with seed {SEEDS[0]} in factors of 2; "
        "compressed, streamed and studied runs take that of the setting that they are compared with. Losses are those "
        f"of the anchor over {size.held_out} held-out sequences, in nats a token.",
        "",
    )
    for table in claims(queue):
        yield from markdown_lines(table, level=2)
    if drawn.panels:
        yield from (f"![{drawn.title}]({drawn.name}.png)", "", drawn.caption, "")
    for table in (final_losses(queue), *([by_batch(queue)] if queue.design.by_batch else [])):
        yield from markdown_lines(table, level=2)
    if queue.design.studies:
        yield from ("## Beyond the paper", "")
    for study in queue.design.studies:
        yield from markdown_lines(study_table(queue, study), level=3)
    yield from markdown_lines(searches(queue), level=2)
