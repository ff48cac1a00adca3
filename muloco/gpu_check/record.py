"""The record of one call of `muloco check-gpu`: a JSON file that is complete and valid after every row. Its fields:

schema, date, command, commit, muloco, rehearsal, seconds
machine:  device, gpus, memory_gib, driver, cores, versions of packages
rows:     by name: status (`ok`, `FAIL` or `left out`), seconds, reason (unless it is ok), figures (by name)
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from muloco.gpu_check.row import Row
from muloco.runs.folder import write_json

SCHEMA = 1
OK, FAIL, LEFT_OUT = "ok", "FAIL", "left out"
NOT_REACHED = "the command was stopped before this row had ended"
STOPPED, TIME_IS_UP = "the command was stopped", "the time is up"
"""Causes for which many rows are left out at once."""


@dataclass(frozen=True)
class Outcome:
    """How one row ended."""

    status: str
    reason: str = ""
    """One line; empty if the row is ok."""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    cause: str = ""
    """What left this row and others out, for the table, which has one line for them; it is not written to the file."""


class Record:
    """The record of one call and its file. At first it holds all rows as left out.

    Args:
        path: of the file.
        head: the fields of the file except `schema` and `rows`.
        rows: the rows that the call runs.
    """

    def __init__(self, path: Path, head: dict[str, Any], rows: Iterable[Row]):
        self.path = path
        self.head = {"schema": SCHEMA, **head}
        self.outcomes = {row.name: Outcome(LEFT_OUT, NOT_REACHED, cause=STOPPED) for row in rows}
        self.ended: set[str] = set()
        """Names of the rows whose outcome has been set."""
        self._write()

    def set(self, name: str, outcome: Outcome, *, seconds: float) -> None:
        """Sets the outcome of a row and writes the file.

        Args:
            name: of the row.
            outcome: how the row ended.
            seconds: time since the start of the call.
        """
        self.outcomes[name] = outcome
        self.ended.add(name)
        self.head["seconds"] = round(seconds, 1)
        self._write()

    @property
    def failed(self) -> list[str]:
        return [name for name, outcome in self.outcomes.items() if outcome.status == FAIL]

    def _write(self) -> None:
        rows = {
            name: {
                "status": outcome.status,
                "seconds": round(outcome.seconds, 1),
                **({"reason": outcome.reason} if outcome.reason else {}),
                **({"figures": outcome.figures} if outcome.figures else {}),
            }
            for name, outcome in self.outcomes.items()
        }
        write_json(self.path, {**self.head, "rows": rows})


def file_name(device: str, when: datetime) -> str:
    """Returns the name of the file of a record, for example `nvidia-h100-80gb-hbm3-20260131-153000.json`."""
    return f"{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}-{when:%Y%m%d-%H%M%S}.json"
