"""`muloco report`: tables and figures over finished runs."""

import argparse
from pathlib import Path

from muloco.commands.parser import Commands, add_command, not_empty
from muloco.console import open_console
from muloco.errors import UserError, naming

USAGE = "RUN ... [--out DIR] [--published]"
DESCRIPTION = """Write tables and figures of finished runs, next to the paper's published figures: report.md,
report.html, tables/*.csv, figures/*.png and *.svg. RUN is a run folder, a folder of run folders, or a sweep's file,
whose jobs' run folders are taken. Runs that are missing, unfinished or broken are listed."""


def add(commands: Commands) -> None:
    summary = "write tables and figures of finished runs"
    parser = add_command(commands, "report", run, summary=summary, usage=USAGE, description=DESCRIPTION)
    parser.epilog = "Exit status 2: there is no finished run to report on."
    meaning = "such as outputs, outputs/NAME or jobs/muloco_paper/15B.py"
    parser.add_argument("runs", metavar="RUN", nargs="*", type=not_empty, help=meaning)
    parser.add_argument("--out", metavar="DIR", default="report", help="folder to write (default: report)")
    meaning = "also draw the paper's points, and add its own tables; needs no RUN"
    parser.add_argument("--published", action="store_true", help=meaning)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 2 if there is nothing to report."""
    if not args.runs and not args.published:
        raise UserError(f"{args.parser.prog} needs a RUN, or --published; try `{args.parser.prog} --help`")
    from muloco.analysis.report.command import run_report
    from muloco.sweeps.runs import run_folders

    folders, problems = [], []
    for name in args.runs:
        with naming("RUN"):
            Path(name).exists()
        existing, missing = run_folders(name) if name.endswith(".py") else ([Path(name)], [])
        folders += existing
        problems += missing
    console = open_console(soft_wrap=True)
    return run_report(folders, problems=problems, out=Path(args.out), published=args.published, console=console)
