"""`muloco prepare`: tokenize the data of a config."""

import argparse
import logging

from muloco.commands.parser import Commands
from muloco.commands.with_config import add_config_command, chosen_config, log_to
from muloco.console import open_console
from muloco.resolve import resolve

DESCRIPTION = """Tokenize the data of CONFIG into the cache ($MULOCO_CACHE, else ~/.cache/muloco), which `muloco train`
would do first. This is meant for large data, on a machine with many cores."""


def add(commands: Commands) -> None:
    add_config_command(commands, "prepare", run, summary="tokenize a config's data", description=DESCRIPTION)


def run(args: argparse.Namespace) -> int:
    from muloco.training.data import prepare_data

    chosen = chosen_config(args)
    console = open_console(soft_wrap=True, work_behind=True)
    log_to(console)
    logging.getLogger().setLevel(logging.INFO)
    console.print(prepare_data(resolve(chosen), verify=True).description())
    return 0
