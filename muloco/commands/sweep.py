"""`muloco sweep`: write and list the jobs of a sweep, submit them, run them here, or show their states."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from muloco.commands.cluster_options import add_profile_options, given_options
from muloco.commands.parser import Commands, add_command, not_empty
from muloco.console import open_console
from muloco.errors import UserError
from muloco.settings.annotations import Count
from muloco.settings.values import option_type

if TYPE_CHECKING:
    from muloco.sweeps.settings import Settings

USAGE = """FILE [--dry-run | --submit | --here | status] [options]
[--section.field value ...]"""
DESCRIPTION = """Write the job scripts of the sweep in FILE (a Python file with a function `sweep()`) and list its jobs,
or submit them to SLURM within the node limit, each once, and failed ones again. `muloco sweep FILE status` shows their
states. --section.field value options apply to all jobs. --submit and status use the options of the last --dry-run where
they are given none."""
PATHS = ("--data.corpus", "--data.validation", "--data.tokenizer")
"""Options that may hold the path of a file, or another name."""


def add(commands: Commands) -> None:
    summary = "write and submit many runs"
    parser = add_command(commands, "sweep", run, summary=summary, usage=USAGE, description=DESCRIPTION)
    parser.epilog = "`muloco train CONFIG --help` lists every field of a config."
    parser.takes_fields = True
    parser.add_argument("file", metavar="FILE", type=not_empty, help="such as jobs/muloco_paper/ddp_baselines_h100.py")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--dry-run", action="store_true", help="write the scripts and list the jobs (the default)")
    action.add_argument("--submit", action="store_true", help="write the scripts and submit them")
    action.add_argument("--here", action="store_true", help="run the jobs on this machine, without SLURM")
    meaning = "jobs that --here runs at the same time (default: 1)"
    parser.add_argument("--at-once", type=option_type(Count), default=1, metavar="N", help=meaning)
    parser.add_argument("--retry", action="store_true", help="also submit jobs that have failed too often")
    meaning = "folder of the scripts (default: generated_job_files/NAME next to FILE)"
    parser.add_argument("--folder", metavar="DIR", help=meaning)
    add_profile_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0; 1 if a job was refused or could not be submitted, another run is in its folder, or SLURM did not
    answer."""
    status, words = args.words[:1] == ["status"], args.words
    if status:
        words = words[1:]
    if words and not words[0].startswith("--"):
        raise UserError(f"muloco sweep FILE takes `status` or options; got {words[0]!r}")
    if status and (args.submit or args.dry_run or args.here):
        raise UserError("status cannot be combined with --submit, --here or --dry-run")
    from muloco.sweeps.actions import Actions
    from muloco.sweeps.expand import expand
    from muloco.sweeps.files import find_sweep, load_sweep
    from muloco.sweeps.folder import SweepFolder, default_folder
    from muloco.sweeps.slurm import SlurmError

    console = open_console(work_behind=args.here)
    file = find_sweep(args.file)
    folder = SweepFolder(Path(args.folder or default_folder(file)).absolute())
    settings = _given(args, words)
    if status or args.submit:
        settings = folder.settings.updated(settings)
    settings = settings.with_profile_beside(file)
    profile = settings.cluster(beside=folder.root)
    expansion = expand(load_sweep(file), overrides=settings.words, profile=profile)
    actions = Actions(expansion, folder, settings, profile, console)
    try:
        if status:
            return actions.show_status(details=args.verbose)
        if args.here:
            return actions.run_here(at_once=args.at_once)
        if args.submit:
            return actions.submit_jobs(retry=args.retry)
        return actions.list_jobs()
    except SlurmError as error:
        console.print(str(error), style="red", soft_wrap=True)
        return 1


def _given(args: argparse.Namespace, words: list[str]) -> "Settings":
    """The settings on the command line, with paths that hold in any folder."""
    from muloco.sweeps.settings import Settings, by_option

    return Settings(
        profile=str(Path(args.profile).absolute()) if args.profile else None,
        options=given_options(args),
        overrides={option: _anchored(option, values) for option, values in by_option(words).items()},
    )


def _anchored(option: str, values: list[str]) -> list[str]:
    if option == "--run.outputs":
        return [str(Path(value).absolute()) for value in values]
    if option in PATHS:
        return [str(Path(value).absolute()) if Path(value).exists() else value for value in values]
    return values
