"""What one call of `muloco check-gpu` has found, as a JSON file that is whole after every row.

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
from muloco.training.run_folder import write_json

SCHEMA = 1
OK, FAIL, LEFT_OUT = "ok", "FAIL", "left out"
NOT_REACHED = "the check was stopped before this row had ended"


@dataclass(frozen=True)
class Outcome:
    """How one row ended."""

    status: str
    """`ok`, `FAIL` or `left out`."""
    reason: str = ""
    """One line; of a row that is ok, none."""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


class Record:
    """The file of one call. All rows are in it from the start, as left out.

    Args:
        path: of the file.
        head: everything but the rows.
        rows: that the call is to check.
    """

    def __init__(self, path: Path, head: dict[str, Any], rows: Iterable[Row]):
        self.path = path
        self.head = {"schema": SCHEMA, **head}
        self.outcomes = {row.name: Outcome(LEFT_OUT, NOT_REACHED) for row in rows}
        self.ended: set[str] = set()
        """Rows that have their outcome."""
        self._write()

    def set(self, name: str, outcome: Outcome, *, seconds: float) -> None:
        """Writes how a row ended, `seconds` after the beginning of the call."""
        self.outcomes[name] = outcome
        self.ended.add(name)
        self.head["seconds"] = round(seconds, 1)
        self._write()

    @property
    def failed(self) -> list[str]:
        return [name for name, outcome in self.outcomes.items() if outcome.status == FAIL]

    def _write(self) -> None:
        write_json(self.path, {**self.head, "rows": {name: _plain(one) for name, one in self.outcomes.items()}})


def _plain(outcome: Outcome) -> dict[str, Any]:
    found: dict[str, Any] = {"status": outcome.status, "seconds": round(outcome.seconds, 1)}
    if outcome.reason:
        found["reason"] = outcome.reason
    if outcome.figures:
        found["figures"] = outcome.figures
    return found


def file_name(device: str, when: datetime) -> str:
    """Such as `nvidia-h100-80gb-hbm3-20260131-1530.json`."""
    return f"{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}-{when:%Y%m%d-%H%M%S}.json"
