"""Writes docs/untested-on-gpu.md from the rows and the records in results/gpu: `python -m muloco.gpu_check.page`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muloco.errors import UserError
from muloco.gpu_check.figures import shown
from muloco.gpu_check.record import FAIL, OK, SCHEMA
from muloco.gpu_check.registry import PARTS, ROWS
from muloco.gpu_check.row import Row
from muloco.settings.load import CHECKOUT

PAGE = CHECKOUT / "docs" / "untested-on-gpu.md"
RECORDS = CHECKOUT / "results" / "gpu"
_INTRODUCTION = """\
# What has been checked on a GPU, and what never

Every row below is a check that needs a GPU. `muloco check-gpu` runs them; [gpu-check.md](gpu-check.md) describes how.
`make gpu-page` writes this page from the rows in `muloco/gpu_check/parts/` and the records in `results/gpu/`."""
_BY_HAND = (
    "The last column\nsays how a person checks a row without `muloco check-gpu`. "
    "Some rows can only be checked by a person, and the column\nbefore it says why. Their results are added to "
    "`results/gpu/` as a record of the same form."
)
_COLUMNS = ("row", "what", "where", "checked", "by hand")


@dataclass(frozen=True)
class Finding:
    """How a row ended in one record."""

    status: str
    reason: str
    figures: Mapping[str, Any]
    where: str
    """Device, torch, commit and date."""
    date: str
    file: str


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Returns all records in a folder, the newest last, each with the name of its file under `file`.

    Raises:
        UserError: a file is not a record, or it is the record of a rehearsal.
    """
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is not JSON: {error}") from error
        if not isinstance(record, dict) or record.get("schema") != SCHEMA or "rows" not in record:
            raise UserError(f"{path} is not a record of `muloco check-gpu` in the format of this version")
        if record["rehearsal"]:
            raise UserError(f"{path} is the record of a rehearsal, which shows nothing about a GPU; remove it")
        records.append({**record, "file": path.name})
    return sorted(records, key=lambda record: record["date"])


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns the text of docs/untested-on-gpu.md.

    Args:
        records: as `read_records` returns them.
    """
    found = {name: list(_findings(name, records)) for name in ROWS}
    return "\n\n".join([_INTRODUCTION, _summary(found), *_parts(found), *_figures(found)]) + "\n"


def _summary(found: Mapping[str, Sequence[Finding]]) -> str:
    last = {name: findings[-1].status for name, findings in found.items() if findings}
    if not last:
        return f"**None of the {len(found)} rows has been checked on a GPU yet.** {_BY_HAND}"
    failed = [name for name, status in last.items() if status == FAIL]
    names = f" ({', '.join(f'`{name}`' for name in failed)})" if failed else ""
    return (
        f"**Of {len(found)} rows, {len(last) - len(failed)} passed when last checked, {len(failed)} failed{names}, and "
        f"{len(found) - len(last)} have never been checked.** {_BY_HAND}"
    )


def _findings(name: str, records: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    for record in records:
        outcome = record["rows"].get(name)
        if outcome is None or outcome["status"] not in (OK, FAIL):
            continue
        machine, date = record["machine"], record["date"][:10]
        gpus = f"{machine['gpus']} x " if machine["gpus"] > 1 else ""
        where = f"{gpus}{machine['device']}, torch {machine['torch']}, commit {record['commit']}, {date}"
        reason, figures = outcome.get("reason", ""), outcome.get("figures", {})
        yield Finding(outcome["status"], reason, figures, where, date, record["file"])


def _parts(found: Mapping[str, Sequence[Finding]]) -> Iterator[str]:
    for part in PARTS:
        checked = sum(bool(found[row.name]) for row in part.rows)
        lines = [
            f"## {part.name}: {part.summary} ({checked} of {len(part.rows)} checked)",
            "",
            "| row | what | where | checked | by hand |",
            "|---|---|---|---|---|",
        ]
        for row in part.rows:
            what = row.what + (f" ({row.gpus} GPUs)" if row.gpus > 1 else "")
            where = ", ".join(f"`{path}`" for path in row.where)
            cells = (f"`{row.name}`", what, where, _checked(row, found[row.name]), row.command)
            lines.append(_line(cells))
        yield "\n".join(lines)


def _checked(row: Row, findings: Sequence[Finding]) -> str:
    if not findings:
        return f"never; {row.by_hand}" if row.by_hand else "never"
    last = findings[-1]
    if last.status == OK:
        return f"ok: {last.where}"
    before = [finding for finding in findings if finding.status == OK]
    return f"**FAIL**: {last.reason} ({last.where})" + (f"; ok before: {before[-1].where}" if before else "")


def _figures(found: Mapping[str, Sequence[Finding]]) -> Iterator[str]:
    """The table of the figures that each row measured when it last passed."""
    lines = []
    for name, findings in found.items():
        measured = [finding for finding in findings if finding.status == OK and finding.figures]
        if measured:
            last = measured[-1]
            lines.append(_line((f"`{name}`", shown(dict(last.figures)), f"`results/gpu/{last.file}`")))
    if lines:
        yield "\n".join(["## Figures", "", "| row | measured | record |", "|---|---|---|", *lines])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(page(read_records(RECORDS)), encoding="utf-8")
