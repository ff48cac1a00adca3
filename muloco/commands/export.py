"""`muloco export`: write the model of a checkpoint for other software."""

import argparse
from pathlib import Path

from muloco.commands.parser import Commands, add_checkpoint, add_command, add_precision, add_step, not_empty
from muloco.console import open_console
from muloco.settings.annotations import Positive
from muloco.settings.values import option_type

USAGE = "CHECKPOINT DIR [options]"
DESCRIPTION = """Write the model of a CHECKPOINT (a run folder, or checkpoint/step-N in one) into a new folder DIR: for
transformers, or as a state dict of torch."""


def add(commands: Commands) -> None:
    summary = "write a checkpoint for transformers"
    parser = add_command(commands, "export", run, summary=summary, usage=USAGE, description=DESCRIPTION)
    add_checkpoint(parser)
    parser.add_argument("folder", metavar="DIR", type=not_empty, help="folder to create")
    parser.add_argument(
        "--format", choices=("hf", "torch"), default="hf", help="hf: for transformers; torch: a state dict"
    )
    add_step(parser)
    add_precision(parser)
    meaning = "hf: largest file of weights, in GiB (default: 5)"
    parser.add_argument("--shard-gib", type=option_type(Positive), default=5, metavar="GIB", help=meaning)


def run(args: argparse.Namespace) -> int:
    from muloco.export.target import check_target
    from muloco.training.trained import find_trained

    trained, folder = find_trained(args.checkpoint, step=args.step), Path(args.folder)
    check_target(folder)
    import torch  # after the checks above, as it is slow

    from muloco.export.folders import GIB, export_huggingface, export_torch

    dtype = getattr(torch, args.precision)
    if args.format == "hf":
        export_huggingface(trained, folder, dtype=dtype, largest=int(args.shard_gib * GIB))
    else:
        export_torch(trained, folder, dtype=dtype)
    open_console(soft_wrap=True).print(f"{trained.name}: {folder}")
    return 0
