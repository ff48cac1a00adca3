"""`muloco models`: list the models that can be trained, and what each supports here."""

import argparse

from muloco.commands.parser import Commands, add_command
from muloco.console import open_console

USAGE = "[-h]"
DESCRIPTION = """List the values of --model.flavor: all parameters, those that compute with a token (active), the
entries of the vocabulary, and what is supported. TP: tensor parallelism. PP: pipelines. hub: a run starts from a folder
of transformers, and is exported to one. All of them can be trained by workers with outer steps, sharded over ranks
(FSDP2) and replicated."""


def add(commands: Commands) -> None:
    add_command(
        commands, "models", run, summary="list the models that can be trained", usage=USAGE, description=DESCRIPTION
    )


def run(args: argparse.Namespace) -> int:
    from rich.table import Table

    from muloco.model.architectures.titan.sizes import OBSTACLES
    from muloco.model.listing import COLUMNS, rows

    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        numbers = column in ("parameters", "active", "vocabulary")
        table.add_column(column, justify="right" if numbers else "left", no_wrap=True)
    for row in rows():
        table.add_row(*row)
    console = open_console(soft_wrap=True)
    console.print(table)
    console.print()
    for model, reason in OBSTACLES.items():
        console.print(f"torchtitan's {model} cannot be trained: it {reason}")
    return 0
