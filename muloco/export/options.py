"""The options of `muloco export`. Needs nothing but Python."""

import argparse

from muloco.settings.values import whole_number

FORMATS = ("hf", "torch")
PRECISIONS = ("float32", "bfloat16")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", nargs="?", help="to be made")
    parser.add_argument("--format", choices=FORMATS, default="hf", help="hf: for transformers; torch: a state dict")
    parser.add_argument(
        "--step", type=whole_number, help="step of a run folder's checkpoint (default: the newest complete one)"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the weights (default float32)")
    parser.add_argument("--shard-gib", type=float, default=5, help="hf: largest file of weights, in GiB (default 5)")
