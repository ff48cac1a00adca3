"""The process of one row: `python -m muloco.gpu_check.one_row NAME SCRATCH OUTCOME [--rehearse]`."""

import importlib
import os
import sys
import traceback
from pathlib import Path

import torch

from muloco.gpu_check.bench import Bench, CheckFailed, NotHere
from muloco.gpu_check.record import FAIL, LEFT_OUT, OK
from muloco.gpu_check.registry import ROWS
from muloco.runs.folder import write_json


def main(name: str, scratch: str, outcome: str, *options: str) -> None:
    rehearsal = "--rehearse" in options
    device = torch.device("cpu") if rehearsal else torch.device("cuda", 0)
    bench = Bench(device, Path(scratch), rehearsal)
    try:
        check = getattr(importlib.import_module(f"muloco.gpu_check.checks.{ROWS[name].module}"), name)
        result = {"status": OK, "figures": check(bench)}
    except NotHere as error:
        result = {"status": LEFT_OUT, "reason": str(error)}
    except Exception as error:  # any other exception means that the row has failed
        traceback.print_exc()
        kind = "" if isinstance(error, CheckFailed) else f"{type(error).__name__}: "
        result = {"status": FAIL, "reason": f"{kind}{error}"}
    write_json(Path(outcome), result)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of gloo or NCCL may still hold a tensor; freeing it at exit would abort the process


if __name__ == "__main__":
    main(*sys.argv[1:])
