"""`muloco models`: list the models that can be trained, and what each supports here."""

import argparse

from muloco.commands.parser import Commands, add_command
from muloco.console import open_console

USAGE = "[-h]"
DESCRIPTION = """List the values of --model.flavor, with their parameters, those that compute with a token (active), the
entries of their vocabulary, and what is supported: outer steps; tensor parallelism (TP); and the Hugging Face form, by
which a run starts from a folder of transformers and is exported to one. All of them can be sharded over ranks (FSDP2)
and replicated."""


def add(commands: Commands) -> None:
    add_command(
        commands, "models", run, summary="list the models that can be trained", usage=USAGE, description=DESCRIPTION
    )


def run(args: argparse.Namespace) -> int:
    from rich.table import Table

    from muloco.model.architectures.titan.sizes import OBSTACLES
    from muloco.model.listing import COLUMNS, rows

    table = Table()
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in ("parameters", "active", "vocabulary") else "left")
    for row in rows():
        table.add_row(*row)
    console = open_console()
    console.print(table)
    for model, reason in OBSTACLES.items():
        console.print(f"torchtitan's {model} cannot be trained: it {reason}", soft_wrap=True)
    return 0
