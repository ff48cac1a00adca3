"""`muloco check-gpu`: chooses the rows, runs them, and prints the results."""

import argparse
import dataclasses
import math
import os
import shlex
import signal
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from muloco import __version__
from muloco.analysis.output import check_folder
from muloco.console import open_console
from muloco.cores import usable_cores
from muloco.errors import UserError
from muloco.gpu_check.machine import commit, facts
from muloco.gpu_check.record import Record, file_name
from muloco.gpu_check.registry import PARTS, ROWS, select
from muloco.gpu_check.row import Row
from muloco.gpu_check.runner import Limits, Runner, row_command
from muloco.gpu_check.table import WIDTH, checks, table, terminal_width

MINUTES = 8.0
REHEARSAL_MINUTES = 60.0
REHEARSAL_GPUS = 2
"""Rows that need more GPUs are not rehearsed: each GPU would take a process on the CPU."""
REHEARSAL_STRETCH = 5.0
MOST_AT_ONCE = 8
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "offline"}
"""Defaults that keep the rows from waiting for a network."""


def run_check_gpu(command: argparse.Namespace) -> int:
    """Runs the chosen rows.

    Args:
        command: the parsed options, see muloco/gpu_check/options.py.

    Returns:
        exit status: 0, or 1 if a row failed.

    Raises:
        UserError: an option is invalid, or there is no GPU and it is no rehearsal.
    """
    console = open_console(soft_wrap=True, work_behind=True)
    rows = select(command.parts, command.rows)
    if command.list:
        listed = rows if command.parts or command.rows else list(ROWS.values())
        console.print(listing(listed, terminal_width(console)), markup=False)
        return 0
    limits = _limits(command)
    folder = Path(command.out).absolute()
    check_folder("--out", folder)
    machine = facts()
    if not command.rehearse:
        if not machine["gpus"]:
            built = f"built for CUDA {machine['cuda']}" if machine["cuda"] else "built without CUDA"
            raise UserError(
                f"there is no GPU that PyTorch {machine['torch']} ({built}) can use; "
                "`muloco check-gpu --rehearse` runs the same checks on the CPU at small sizes"
            )
        limits = dataclasses.replace(
            limits, gpus=machine["gpus"], devices=_devices(machine["gpus"]), memory_gib=machine["memory_gib"]
        )
    now = datetime.now(UTC)
    head = {
        "date": now.isoformat(timespec="seconds"),
        "command": shlex.join(["muloco", "check-gpu", *sys.argv[2:]]),
        "commit": commit(),
        "muloco": __version__,
        "rehearsal": command.rehearse,
        "machine": machine,
        "seconds": 0.0,
    }
    record = Record(folder / file_name("rehearsal" if command.rehearse else machine["device"], now), head, rows)
    count = "rehearsal on the CPU" if command.rehearse else f"{machine['gpus']} x {machine['device']}"
    console.print(
        f"{checks(len(rows))}, at most {limits.seconds / 60:g} minutes; {count}, torch {machine['torch']}, "
        f"commit {head['commit']}\nrecord: {record.path}\nlogs: {record.path.parent / 'logs'}",
        markup=False,
    )
    width = terminal_width(console) or WIDTH
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    with tempfile.TemporaryDirectory(prefix="muloco-check-gpu-") as scratch:
        check = row_command(Path(scratch), rehearsal=command.rehearse)
        handlers = _ended_as_by_ctrl_c()
        try:
            Runner(record, limits, scratch=Path(scratch), command=check, console=console).run(rows)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            console.print(f"\n{table(record, width)}\nrecord: {record.path}", markup=False)
    return 1 if record.failed else 0


def _ended_as_by_ctrl_c() -> dict[signal.Signals, Any]:
    """Makes SIGTERM and SIGHUP (a closed terminal) end the running rows as Ctrl-C does, so that the table is printed.
    Under nohup, SIGHUP stays ignored.

    Returns:
        the previous handlers.
    """
    heeded = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is not signal.SIG_IGN]
    return {one: signal.signal(one, signal.default_int_handler) for one in heeded}


def _devices(count: int) -> tuple[str, ...]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(map(str, range(count))) if visible is None else tuple(visible.split(",")[:count])


def listing(rows: Sequence[Row], width: int | None = None) -> str:
    """Returns the list of rows, by part, with lines of at most `width` characters if it is given."""
    lines = []
    for part in PARTS:
        if listed := [row for row in part.rows if row in rows]:
            lines += _wrapped(f"{part.name}: {part.summary}", width, indent=2)
            for row in listed:
                lines += _wrapped(f"  {row.name:24} {_shown(row)}", width, indent=27)
    return "\n".join(lines)


def _wrapped(line: str, width: int | None, *, indent: int) -> list[str]:
    if width is None:
        return [line]
    return textwrap.wrap(line, max(width, indent + 30), subsequent_indent=" " * indent, break_long_words=False)


def _shown(row: Row) -> str:
    gpus = f" ({row.gpus} GPUs)" if row.gpus > 1 else ""
    return row.what + gpus + (f"; by hand: {row.by_hand}" if row.by_hand else "")


def _limits(command: argparse.Namespace) -> Limits:
    minutes = command.minutes
    if minutes is None:
        minutes = REHEARSAL_MINUTES if command.rehearse else MINUTES
    if not (math.isfinite(minutes) and minutes > 0):
        raise UserError(f"--minutes must be a number above 0; got {minutes}")
    cores = usable_cores()
    at_once = command.at_once
    if at_once is None:
        at_once = max(1, min(MOST_AT_ONCE, cores // 2))
    if at_once < 1:
        raise UserError(f"--at-once must be at least 1; got {at_once}")
    if command.rehearse:
        return Limits(REHEARSAL_GPUS, minutes * 60, at_once, cores, stretch=REHEARSAL_STRETCH, estimates=False)
    return Limits(0, minutes * 60, at_once, cores)
