"""Options of `muloco paper`."""

import argparse

from muloco.paper.design import FULL, QUICK
from muloco.settings.values import whole_number


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a small part of it, in a quarter of an hour on two cores")
    parser.add_argument("--out", metavar="DIR", help=f"folder (default: {FULL.folder}, or {QUICK.folder} with --quick)")
    parser.add_argument(
        "--at-once", type=whole_number, metavar="N", help="runs at the same time (default: one per core)"
    )
    parser.add_argument("--plan", action="store_true", help="say what is left to be run and how long it takes, and end")
