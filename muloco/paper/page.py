"""The page: claims, tables, figures, and the report of the runs beside it."""

import platform
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from muloco.analysis.claims.listing import claims_listing
from muloco.analysis.report.command import run_report
from muloco.analysis.report.draw import draw
from muloco.analysis.report.markdown import table_lines
from muloco.paper.design import SYNC_STEPS
from muloco.paper.figure import NAME, figure
from muloco.paper.queue import Queue
from muloco.paper.results import (
    by_batch,
    claims,
    final_losses,
    run_folders,
    searches,
    study_listing,
)

PAGE = "paper.md"
REPORT = "report"


def write_page(queue: Queue, console: Console) -> Path:
    """Writes paper.md and its figure, and a report over the runs at the usual batch.

    Returns:
        paper.md.
    """
    found = figure(queue)
    if found.panels:
        draw(found, queue.folder)
    path = queue.folder / PAGE
    path.write_text("\n".join(_lines(queue, drawn=bool(found.panels))) + "\n", encoding="utf-8")
    usual = [setting for setting in queue.design.settings() if setting not in queue.design.by_batch]
    folders = run_folders(queue, usual)
    run_report(folders, out=queue.folder / REPORT, published=False, console=Console(quiet=True))
    console.print(f"{path}; tables and figures of the runs: {queue.folder / REPORT / 'report.html'}", markup=False)
    return path


def _lines(queue: Queue, *, drawn: bool) -> Iterator[str]:
    size = queue.design.size
    yield from ("# The paper's claims at a small size", "")
    yield from (
        f"{len(queue.losses)} runs of the flavor {size.flavor} on the embedded corpus (the standard library of Python "
        f"{platform.python_version()}), each of {size.tokens:,} tokens: {size.steps} inner steps of {size.batch} "
        f"sequences of {size.seq_len} tokens, H = {SYNC_STEPS}, warm-up over 5 % of the steps, all K workers in "
        f"one process. The inner learning rate of a setting was searched with seed {size.seeds[0]} in factors of 2; "
        "compressed, streamed and studied runs take that of the setting that they are compared with. Losses are those "
        f"of the anchor over {size.held_out} held-out sequences, in nats a token.",
        "",
    )
    yield from ("## Claims", "")
    flavor = size.flavor
    yield from table_lines(claims_listing([(flavor, claim) for claim in claims(queue)]))
    if drawn:
        yield from (f"![{figure(queue).title}]({NAME}.png)", "", figure(queue).caption, "")
    for listing in (final_losses(queue), *([by_batch(queue)] if queue.design.by_batch else [])):
        yield from (f"## {listing.title}", "")
        yield from table_lines(listing)
    if queue.design.studies:
        yield from ("## Beyond the paper", "")
    for study in queue.design.studies:
        listing = study_listing(queue, study)
        yield from (f"### {listing.title}", "")
        yield from table_lines(listing)
    listing = searches(queue)
    yield from (f"## {listing.title}", "")
    yield from table_lines(listing)
