"""`muloco train`: train a config, on this machine or on the nodes of a SLURM job."""

import argparse
import logging
import sys

from muloco.commands.parser import Commands
from muloco.commands.with_config import add_config_command, chosen_config, log_to
from muloco.console import open_console
from muloco.errors import UserError, naming
from muloco.resolve import Resolution, resolution
from muloco.runs.folder import RunFolder, check_writable
from muloco.settings.config import Config
from muloco.settings.load import find_config, locate

DESCRIPTION = """Train CONFIG: start the lighthouse and all workers, on this machine or on the nodes of the SLURM job
that the command runs in, show them while they run, and end with a summary and a plot of the loss in the run's
folder."""


def add(commands: Commands) -> None:
    summary = "train, here or in a SLURM job"
    parser = add_config_command(commands, "train", run, summary=summary, description=DESCRIPTION)
    meaning = "show the config with all derived values, without starting anything"
    parser.add_argument("--dry-run", action="store_true", help=meaning)
    parser.add_argument("--resume", action="store_true", help="resume the run from its newest checkpoint")


def run(args: argparse.Namespace) -> int:
    """Returns the exit status of the run, see `muloco.launch.supervisor.train`."""
    console = open_console(soft_wrap=True, work_behind=not args.dry_run)
    log_to(console)
    logging.getLogger("muloco.data.tokenize").setLevel(logging.INFO)
    chosen = chosen_config(args)
    resumption = None
    if args.resume:
        if args.dry_run:
            raise UserError("--dry-run shows a new run; it cannot be combined with --resume")
        from muloco.training.resuming import take_up

        locate(chosen, find_config(args.config), args.words)
        resumption = take_up(chosen)
        config, chosen = resumption.config, resumption.chosen
    else:
        from muloco.describe import describe, describe_roles

        resolved = _resolved(args.config, chosen)
        if args.dry_run:
            sys.stdout.write(describe(resolved) + "\n")
            return 0
        config = resolved.config
        for note in resolved.notes:
            console.print(f"note: {note}", style="yellow")
        console.print(describe_roles(config), highlight=False)
    if config.evaluation.tasks and not (resumption is not None and resumption.ended):
        from muloco.evals.in_training import rehearse

        rehearse(config)  # unknown or missing tasks are reported now
    from muloco.analysis.plots import plot_loss
    from muloco.launch.supervisor import train

    status = train(config, chosen=chosen, resumption=resumption, console=console)
    if status == 0:
        try:
            console.print(f"loss curve: {plot_loss(RunFolder.of(config.run.outputs, config.run.name))}")
        except Exception as error:  # the run is complete without its picture, whatever a plotting library raises
            console.print(f"the loss curve was not drawn: {type(error).__name__}: {error}", style="yellow")
    return status


def _resolved(path: str, chosen: Config) -> Resolution:
    """Resolves the config of a new run, and checks what else the run needs before it starts."""
    resolved = resolution(chosen, config_name=find_config(path).stem)
    folder = RunFolder.of(resolved.config.run.outputs, resolved.config.run.name)
    with naming("run.outputs"):
        folder.root.exists()
    check_writable(folder)
    if resolved.config.evaluation.tasks:
        from muloco.evals.names import check_names

        check_names(resolved.config.evaluation.tasks, resolved.config.evaluation.include_path)
    return resolved
