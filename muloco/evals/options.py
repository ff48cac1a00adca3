"""The options of `muloco eval`. Needs nothing but Python."""

import argparse

from muloco.settings.values import whole_number

PRECISIONS = ("float32", "bfloat16")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", help="names with commas in between: tasks and groups of lm-eval, own tasks, `paper`")
    parser.add_argument(
        "--step", type=whole_number, help="step of a run folder's checkpoint (default: the newest complete one)"
    )
    parser.add_argument("--include-path", help="folder with tasks of your own, as YAML files")
    parser.add_argument("--limit", type=whole_number, help="documents of each task, for a trial (default: all)")
    parser.add_argument("--shots", type=whole_number, default=0, help="examples in each prompt (default 0)")
    parser.add_argument(
        "--batch-tokens", type=whole_number, default=8192, help="tokens in a batch, with padding (default 8192)"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the weights (default float32)")
    parser.add_argument("--output", help="file for lm-eval's JSON (default: below evaluations/ in the run folder)")
