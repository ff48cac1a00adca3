"""`muloco export`: a checkpoint as a folder for other software."""

import argparse
from pathlib import Path

from muloco.console import open_console
from muloco.errors import UserError
from muloco.export.target import check_target
from muloco.settings.bounds import Positive
from muloco.settings.values import check_option
from muloco.training.trained import find_trained


def run_export(command: argparse.Namespace) -> int:
    """Returns 0; raises UserError for what cannot be exported."""
    if command.folder is None:
        raise UserError("muloco export needs CHECKPOINT and DIR, the folder to be made")
    check_option("--shard-gib", Positive, command.shard_gib)
    trained, folder = find_trained(command.config, step=command.step), Path(command.folder)
    check_target(folder)
    import torch  # after the checks above, as it is slow

    from muloco.export.folders import GIB, export_huggingface, export_torch

    dtype = getattr(torch, command.precision)
    if command.format == "hf":
        export_huggingface(trained, folder, dtype=dtype, largest=int(command.shard_gib * GIB))
    else:
        export_torch(trained, folder, dtype=dtype)
    open_console(soft_wrap=True).print(f"{trained.name}: {folder}", markup=False)
    return 0
