"""`muloco check`: verifies that checkpoints are complete and undamaged."""

import argparse
from collections.abc import Callable
from functools import partial

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from muloco.commands.parser import Commands, add_checkpoint, add_command, add_step
from muloco.console import open_console
from muloco.errors import UserError
from muloco.runs.checkpoint_folder import CheckpointFolder
from muloco.runs.manifest import Manifest

LARGE = 2**30
"""Bytes to read above which a progress bar is shown."""
USAGE = "CHECKPOINT [--step N | --all] [options]"
DESCRIPTION = """Check that a CHECKPOINT (a run folder, or checkpoint/step-N in one) is whole: that every file of every
part exists, belongs to this checkpoint, and has the checksum that was recorded. The exit status is 1 if it is not
whole."""


def add(commands: Commands) -> None:
    summary = "check that checkpoints are whole"
    parser = add_command(commands, "check", run, summary=summary, usage=USAGE, description=DESCRIPTION)
    add_checkpoint(parser)
    which = parser.add_mutually_exclusive_group()
    add_step(which)
    which.add_argument("--all", action="store_true", help="check all checkpoints of the run")


def run(args: argparse.Namespace) -> int:
    """Returns 0 if all the requested checkpoints are whole, else 1."""
    from muloco.training.trained import named_checkpoint

    run_folder, step = named_checkpoint(args.checkpoint, args.step)
    folder = CheckpointFolder(run_folder.checkpoint)
    if args.all and step is not None:
        raise UserError(f"--all checks all checkpoints of a run; give {run_folder.root} with it, or leave it out")
    steps = folder.steps()
    if step is not None:
        steps = [step]
    elif not args.all:
        steps = [step for step in steps if folder.has_manifest(step)][-1:]
    if not steps:
        raise UserError(f"{run_folder.root} has no complete checkpoint")
    console, whole = open_console(soft_wrap=True), True
    for step in steps:
        reasons = []
        try:
            manifest = folder.read(step)
            size = sum(stored.bytes for files in manifest.files.values() for stored in files.values())
            columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
            with (
                folder.held(step),
                Progress(*columns, console=console, transient=True, disable=size < LARGE) as progress,
            ):
                advance = partial(progress.advance, progress.add_task(f"step-{step}", total=size))
                reasons = _damages(folder, manifest, advance)
        except ValueError as error:
            if step not in folder.steps():
                console.print(f"step-{step}: was removed meanwhile, as the run goes on")
                continue
            reasons = [str(error)]
        if reasons:
            whole = False
            console.print(f"step-{step}: not whole", style="red")
            for reason in reasons:
                console.print(f"  {reason}")
        else:
            parts = f"{len(manifest.parts)} part{'s' * (len(manifest.parts) > 1)}"
            verified = "" if manifest.has_digests else "; an earlier version wrote it, so only its sizes were checked"
            console.print(f"step-{step}: whole ({parts}, {size / 1e9:.3g} GB){verified}")
    return 0 if whole else 1


def _damages(folder: CheckpointFolder, manifest: Manifest, tell: Callable[[int], None]) -> list[str]:
    """Returns what is wrong with the contents of a checkpoint, with at most one sentence for each part."""
    from muloco.runs import safe_reader  # needs torch, which is slow

    reasons = []
    for name in manifest.parts:
        try:
            folder.verify(manifest, name, tell=tell)
            safe_reader.check(folder.part(manifest.step, name))
        except ValueError as error:
            reasons.append(str(error))
    return reasons
