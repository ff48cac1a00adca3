"""`muloco analyze`: measurements on checkpoints. So far there is one, `muloco analyze pseudogradients`."""

import argparse
from pathlib import Path

from muloco.commands.parser import Commands, add_checkpoint, add_command, add_verbose, list_commands
from muloco.console import open_console
from muloco.errors import UserError
from muloco.settings.annotations import Count
from muloco.settings.values import option_type

USAGE = "CHECKPOINT ... [--workers K ...]\n[--steps H] [--out DIR]"
DESCRIPTION = """Let K workers take H inner steps from a CHECKPOINT (checkpoint/step-N in a run folder; or a run
folder, for its newest checkpoint that is followed by H more planned steps), one after the other in this process,
and compare their pseudogradients: cosine to that of one worker, spectra, interference gap, and Proposition 4.2 of the
paper, step by step. The figures of several checkpoints, such as one of Muon and one of AdamW, are drawn side by side.
docs/pseudogradients.md says how everything is computed."""


def add(commands: Commands) -> None:
    above = add_command(
        commands,
        "analyze",
        run,
        summary="measure checkpoints",
        usage="[-h] [-v] WHAT ...",
        description="Measure checkpoints.",
    )
    measurements = above.add_subparsers(prog="muloco analyze", required=True, metavar="WHAT", help=argparse.SUPPRESS)
    summary = "how K workers' pseudogradients agree"
    parser = add_command(measurements, "pseudogradients", run, summary=summary, usage=USAGE, description=DESCRIPTION)
    above.epilog = f"measurements:\n{list_commands(measurements)}"
    add_checkpoint(parser, nargs="+")
    meaning = "numbers of workers (default: 1 2 4 8); 1 is always added"
    parser.add_argument(
        "--workers", metavar="K", type=option_type(Count), nargs="+", default=[1, 2, 4, 8], help=meaning
    )
    parser.add_argument(
        "--steps", metavar="H", type=option_type(Count), default=30, help="inner steps of each worker (default: 30)"
    )
    parser.add_argument("--out", metavar="DIR", default="pseudogradients", help="new folder (default: pseudogradients)")
    add_verbose(parser)


def run(args: argparse.Namespace) -> int:
    """Analyzes pseudogradients. Nothing is written if a checkpoint cannot be analyzed."""
    from muloco.training.trained import find_trained

    for checkpoint in args.checkpoint:
        find_trained(checkpoint, verified=False)  # a missing checkpoint is reported before the slow imports
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from muloco.analysis.output import check_folder, writing
    from muloco.analysis.pseudogradients.checkpoints import choose, study_checkpoint
    from muloco.analysis.pseudogradients.figures import draw
    from muloco.analysis.pseudogradients.tables import TABLE, console_tables, markdown, tables, text_tables
    from muloco.training.continuation import check, one_rank

    counts = sorted({1, *args.workers})
    if counts == [1]:
        raise UserError("--workers needs a K above 1; its workers are compared with K = 1")
    out = Path(args.out)
    check_folder("--out", out)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"--out: {out} exists and is not an empty folder; nothing in it is overwritten")
    chosen = [choose(checkpoint, args.steps) for checkpoint in args.checkpoint]
    names = [trained.name for trained in chosen]
    if len(set(names)) < len(names):
        raise UserError(f"a checkpoint is given twice, or two runs have the same name: {'; '.join(names)}")
    for trained in chosen:
        check(trained, counts=counts, steps=args.steps)
    console = open_console()
    with writing("--out", out):
        out.mkdir(parents=True, exist_ok=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn()
    with one_rank(), Progress(*columns, console=console) as progress:
        studies = [study_checkpoint(trained, counts, args.steps, out, progress) for trained in chosen]
    with writing("--out", out):
        for name, text in tables(studies).items():
            (out / name).write_text(text, encoding="utf-8")
        draw(studies, out)
        (out / TABLE).write_text(markdown(studies), encoding="utf-8")
    for table in text_tables(studies):
        for part in console_tables(table, width=console.width):
            console.print(part)
        console.print(*table.notes, style="dim")
    console.print(f"table, figures, CSV and tensors: {out}", soft_wrap=True)
    return 0
