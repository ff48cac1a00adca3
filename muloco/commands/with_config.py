"""The common part of the commands on a CONFIG: `train`, `prepare` and `worker`."""

import argparse
import logging

from rich.console import Console

from muloco.commands.parser import Commands, Parser, Run, add_command, not_empty
from muloco.model.flavors import in_words
from muloco.settings.config import Config
from muloco.settings.load import load_config


def add_config_command(commands: Commands, name: str, run: Run, *, summary: str, description: str) -> Parser:
    """Adds a command that takes a CONFIG, and fields of it."""
    usage = "CONFIG [options] [--section.field value ...]"
    parser = add_command(commands, name, run, summary=summary, usage=usage, description=description, add_help=False)
    parser.epilog = (
        f"`muloco {name} CONFIG --help` lists every field of the config with its value. "
        f"--model.flavor is one of {in_words()}."
    )
    parser.takes_fields = True
    meaning = "such as config/laptop/muloco.py, or a run's folder"
    parser.add_argument("config", metavar="CONFIG", nargs="?", type=not_empty, help=meaning)
    parser.add_argument("-h", "--help", action="store_true", help="show this, or after CONFIG its fields, and exit")
    return parser


def chosen_config(args: argparse.Namespace) -> Config:
    """Returns the config of the command line, with the fields that it sets. With --help, prints all fields, or without
    a CONFIG the help of the command, and exits. Raises UserError if there is no such config, or it cannot be used."""
    parser: Parser = args.parser
    if args.config is None:
        if args.help:
            parser.print_help()
            parser.exit()
        raise parser.missing("CONFIG")
    own = [f"[{action.option_strings[0]}]" for action in parser._actions if action.option_strings]
    usage = [parser.prog, args.config, *(option for option in own if option != "[-h]")]
    return load_config(args.config, [*args.words, *["--help"] * args.help], prog=" ".join(usage))


def log_to(console: Console) -> None:
    """Shows messages of warnings and errors, with the time as workers write it."""
    from rich.logging import RichHandler

    from muloco.training.worker_log import TIME

    handler = RichHandler(console=console, show_path=False, log_time_format=TIME)
    logging.basicConfig(format="%(message)s", handlers=[handler])
