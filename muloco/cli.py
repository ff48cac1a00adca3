"""The command line: `muloco train`, `muloco prepare`, `muloco worker`."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from muloco import __version__
from muloco.training.config import Config
from muloco.training.load import ConfigError, find_config, load_config
from muloco.training.resolve import resolve

_TRAIN = """Train CONFIG: start the lighthouse and all workers on this machine, show them while they run, and end with a
summary and a plot of the loss in the run's folder."""
_PREPARE = """Tokenize the data of CONFIG into the cache ($MULOCO_CACHE, else ~/.cache/muloco), which `muloco train`
would do first. For big data, on a machine with many cores."""
_WORKER = """Run one worker of CONFIG (under torchrun where it has several ranks), joining the lighthouse at
$TORCHFT_LIGHTHOUSE. `muloco train` and job scripts start workers with it; by hand, give each worker its
--fault_tolerance.replica_id and all of them the same --run.name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        exit status: 0; 1 where the run failed; 2 where the command or the config cannot be used; 130 after Ctrl-C.
    """
    command, overrides = _parser().parse_known_args(argv)
    try:
        if command.help and command.config is None:
            command.parser.print_help()
            return 0
        if command.config is None:
            raise ConfigError(f"{command.parser.prog} needs a CONFIG; try `{command.parser.prog} --help`")
        if command.help:
            overrides = [*overrides, "--help"]
        chosen = load_config(command.config, overrides, prog=f"{command.parser.prog} {command.config}")
        return command.run(command, chosen)
    except ConfigError as error:
        sys.stderr.write(f"muloco: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("muloco: stopped\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="muloco", description="Train Llama language models by MuLoCo: Muon inside, DiLoCo outside."
    )
    parser.add_argument("--version", action="version", version=f"muloco {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = _command(commands, "train", _train, "train on this machine", _TRAIN)
    train.add_argument("--resume", action="store_true", help="take the run up again from its newest checkpoint")
    _command(commands, "prepare", _prepare, "tokenize a config's data", _PREPARE)
    _command(commands, "worker", _worker, "run one worker of a run", _WORKER)
    return parser


def _command(commands, name: str, run, summary: str, description: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        usage=f"muloco {name} CONFIG [options] [--section.field value ...]",
        epilog=f"`muloco {name} CONFIG --help` lists every field of the config with its value.",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="such as config/laptop/muloco.py, or a config.json")
    parser.add_argument("-h", "--help", action="store_true", help="show this, or after CONFIG its fields, and exit")
    parser.set_defaults(run=run, parser=parser)
    return parser


def _train(command: argparse.Namespace, chosen: Config) -> int:
    from rich.console import Console
    from rich.logging import RichHandler

    from muloco.analysis.plots import plot_loss
    from muloco.launch.supervisor import train

    console = Console(soft_wrap=True, highlight=False)
    logging.basicConfig(format="%(message)s", handlers=[RichHandler(console=console, show_path=False)])
    logging.getLogger("muloco.data.tokenize").setLevel(logging.INFO)
    config = resolve(chosen, config_name=find_config(command.config).stem)
    outcome = train(config, chosen=chosen, resume=command.resume, console=console)
    if outcome.status == 0:
        console.print(f"loss curve: {plot_loss(outcome.folder)}")
    return outcome.status


def _prepare(command: argparse.Namespace, chosen: Config) -> int:
    from rich.console import Console
    from rich.logging import RichHandler

    from muloco.training.data import prepare_data

    console = Console(soft_wrap=True, highlight=False)
    handler = RichHandler(console=console, show_path=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    console.print(prepare_data(resolve(chosen)).description(), markup=False)
    return 0


def _worker(command: argparse.Namespace, chosen: Config) -> int:
    from muloco.training.worker import run_worker

    if chosen.run.name is None and chosen.fault_tolerance.group_size > 1:
        raise ConfigError("all workers of a run need the same --run.name")
    logging.basicConfig(
        level=logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stdout,
    )
    for name in ("torchft.manager", "torchft_quorums", "torchft_commits", "torchft_errors"):
        logging.getLogger(name).setLevel(logging.ERROR)  # several lines a round; the sync's metrics say it in one
    run_worker(resolve(chosen, config_name=find_config(command.config).stem), chosen=chosen)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread of gloo may still hold a tensor; to let go of it while Python ends would abort a worker that succeeded.
    os._exit(0)
