"""Options of `muloco check-gpu`."""

import argparse

from muloco.gpu_check.registry import PARTS
from muloco.training.values import whole_number

DESCRIPTION = """Check on one or more GPUs what no CPU can show, each row in a process of its own: kernels, codecs,
short trainings, speed. The command ends with a table and a JSON file. Rows that need more GPUs than there are, and
those for which no time is left, are reported as left out. docs/gpu-check.md says how to do this on a machine without
a network."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", type=_names, default=(), metavar="A,B", help="only these parts, from the list below")
    parser.add_argument("--rows", type=_names, default=(), metavar="X,Y", help="only these rows; --list shows them")
    parser.add_argument("--minutes", type=float, metavar="M", help="time for all of it (default: 8; in a rehearsal 60)")
    parser.add_argument(
        "--at-once", type=whole_number, metavar="N", help="rows side by side (default: one for two cores, at most 8)"
    )
    parser.add_argument(
        "--out", default="gpu-check", metavar="DIR", help="folder for record and logs (default: gpu-check)"
    )
    parser.add_argument("--rehearse", action="store_true", help="run on the CPU instead, at small sizes")
    parser.add_argument("--list", action="store_true", help="list the rows, and end")


def epilog() -> str:
    """The parts, for the help."""
    return "parts:\n" + "\n".join(f"  {part.name:10} {part.summary}" for part in PARTS)


def _names(word: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in word.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("must be names with commas in between")
    return names
