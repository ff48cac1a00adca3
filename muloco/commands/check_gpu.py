"""`muloco check-gpu`: run the checks that need a GPU."""

import argparse
import functools
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muloco import __version__
from muloco.commands.parser import Commands, add_command
from muloco.console import open_console
from muloco.errors import UserError
from muloco.gpu_check.registry import PARTS, ROWS, select
from muloco.settings.annotations import Count, Positive
from muloco.settings.values import option_type

if TYPE_CHECKING:
    from muloco.gpu_check.runner import Limits

USAGE = "[--parts A,B] [--rows X,Y] [--minutes M] [--rehearse]\n[options]"
DESCRIPTION = """Run the checks that need one or more GPUs: kernels, codecs, short training runs, speed. Each check is a
row and runs in a process of its own. The command ends with a table and a JSON file. Rows that need more GPUs than the
machine has, and rows for which no time is left, are reported as left out. docs/gpu-check.md describes how to run them
on a machine without a network."""
MINUTES = 8.0
REHEARSAL_MINUTES = 60.0
REHEARSAL_GPUS = 2
"""Rows that need more GPUs are not rehearsed: each GPU would take a process on the CPU."""
REHEARSAL_STRETCH = 5.0
MOST_AT_ONCE = 8
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "offline"}
"""Defaults that keep the rows from waiting for a network."""


def add(commands: Commands) -> None:
    summary = "run the checks that need a GPU"
    parser = add_command(commands, "check-gpu", run, summary=summary, usage=USAGE, description=DESCRIPTION)
    parser.epilog = "\n".join(["parts:", *(f"  {part.name:10} {part.summary}" for part in PARTS)])
    meaning = "run only these rows, and those that they depend on; --list shows all"
    parser.add_argument(
        "--parts", type=_names, default=(), metavar="A,B", help="run only these parts; see the list below"
    )
    parser.add_argument("--rows", type=_names, default=(), metavar="X,Y", help=meaning)
    meaning = "time limit of the whole call (default: 8; 60 with --rehearse)"
    parser.add_argument("--minutes", type=option_type(Positive), metavar="M", help=meaning)
    meaning = "number of rows that run side by side (default: half the cores, at most 8)"
    parser.add_argument("--at-once", type=option_type(Count), metavar="N", help=meaning)
    meaning = "folder for the record and the logs (default: gpu-check)"
    parser.add_argument("--out", default="gpu-check", metavar="DIR", help=meaning)
    parser.add_argument("--rehearse", action="store_true", help="run the checks on the CPU, at small sizes")
    parser.add_argument("--list", action="store_true", help="list all rows and exit")


def _names(word: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in word.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("must be one or more names, separated by commas")
    return names


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 if a row has failed."""
    from muloco.analysis.output import check_folder
    from muloco.gpu_check.machine import commit, facts
    from muloco.gpu_check.record import Record, file_name
    from muloco.gpu_check.runner import Runner, row_command
    from muloco.gpu_check.table import WIDTH, checks, listing, table, terminal_width

    console = open_console(soft_wrap=True, work_behind=True)
    rows = select(args.parts, args.rows)
    if args.list:
        listed = rows if args.parts or args.rows else list(ROWS.values())
        console.print(listing(listed, terminal_width(console)))
        return 0
    folder = Path(args.out).absolute()
    check_folder("--out", folder)
    machine = facts()
    limits = _limits(args, machine)
    now = datetime.now(UTC)
    head = {
        "date": now.isoformat(timespec="seconds"),
        "command": shlex.join(["muloco", "check-gpu", *sys.argv[2:]]),
        "commit": commit(),
        "muloco": __version__,
        "rehearsal": args.rehearse,
        "machine": machine,
        "seconds": 0.0,
    }
    record = Record(folder / file_name("rehearsal" if args.rehearse else machine["device"], now), head, rows)
    count = "rehearsal on the CPU" if args.rehearse else f"{machine['gpus']} x {machine['device']}"
    console.print(
        f"{checks(len(rows))}, at most {limits.seconds / 60:g} minutes; {count}, torch {machine['torch']}, "
        f"commit {head['commit']}\nrecord: {record.path}\nlogs: {record.path.parent / 'logs'}"
    )
    width = terminal_width(console) or WIDTH
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    with tempfile.TemporaryDirectory(prefix="muloco-check-gpu-") as scratch:
        command = functools.partial(row_command, scratch=Path(scratch), rehearsal=args.rehearse)
        handlers = _ended_as_by_ctrl_c()
        try:
            Runner(record, limits, scratch=Path(scratch), command=command, console=console).run(rows)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            console.print(f"\n{table(record, width)}\nrecord: {record.path}")
    return 1 if record.failed else 0


def _ended_as_by_ctrl_c() -> dict[signal.Signals, Any]:
    """Makes SIGTERM and SIGHUP (a closed terminal) end the running rows as Ctrl-C does, so that the table is printed.
    Under nohup, SIGHUP stays ignored. Returns the previous handlers."""
    heeded = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, signal.default_int_handler) for number in heeded}


def _limits(args: argparse.Namespace, machine: Mapping[str, Any]) -> "Limits":
    from muloco.cores import usable_cores
    from muloco.gpu_check.runner import Limits

    minutes = args.minutes or (REHEARSAL_MINUTES if args.rehearse else MINUTES)
    cores = usable_cores()
    at_once = args.at_once or max(1, min(MOST_AT_ONCE, cores // 2))
    if args.rehearse:
        return Limits(REHEARSAL_GPUS, minutes * 60, at_once, cores, stretch=REHEARSAL_STRETCH, estimates=False)
    gpus = machine["gpus"]
    if not gpus:
        built = f"built for CUDA {machine['cuda']}" if machine["cuda"] else "built without CUDA"
        raise UserError(
            f"there is no GPU that PyTorch {machine['torch']} ({built}) can use; "
            "`muloco check-gpu --rehearse` runs the same checks on the CPU at small sizes"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = tuple(map(str, range(gpus)) if visible is None else visible.split(",")[:gpus])
    return Limits(gpus, minutes * 60, at_once, cores, devices=devices, memory_gib=machine["memory_gib"])
