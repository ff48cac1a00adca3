"""Options of `muloco check-gpu`."""

import argparse

from muloco.gpu_check.registry import PARTS
from muloco.settings.values import whole_number

DESCRIPTION = """Run the checks that need one or more GPUs: kernels, codecs, short training runs, speed. Each check is a
row and runs in a process of its own. The command ends with a table and a JSON file. Rows that need more GPUs than the
machine has, and rows for which no time is left, are reported as left out. docs/gpu-check.md describes how to run them
on a machine without a network."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parts", type=_names, default=(), metavar="A,B", help="run only these parts; the list is below"
    )
    parser.add_argument(
        "--rows",
        type=_names,
        default=(),
        metavar="X,Y",
        help="run only these rows, and those that they depend on; --list shows all",
    )
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="time limit of the whole call (default: 8; 60 with --rehearse)"
    )
    parser.add_argument(
        "--at-once",
        type=whole_number,
        metavar="N",
        help="number of rows that run side by side (default: half the cores, at most 8)",
    )
    parser.add_argument(
        "--out", default="gpu-check", metavar="DIR", help="folder for the record and the logs (default: gpu-check)"
    )
    parser.add_argument("--rehearse", action="store_true", help="run the checks on the CPU, at small sizes")
    parser.add_argument("--list", action="store_true", help="list all rows and exit")


def epilog() -> str:
    """Returns the list of the parts for the help text."""
    return "parts:\n" + "\n".join(f"  {part.name:10} {part.summary}" for part in PARTS)


def _names(word: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in word.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("must be one or more names, separated by commas")
    return names
