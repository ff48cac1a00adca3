"""Writes docs/untested-on-gpu.md from the rows and the records in results/gpu: `python -m muloco.gpu_check.page`."""

import json
from collections.abc import Iterator, Mapping, Sequence
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

Checked = Mapping[str, Sequence[Mapping[str, Any]]]
"""For each row of the page, by name, the records in which it passed or failed, the newest last."""


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
    checked = {
        name: [record for record in records if record["rows"].get(name, {}).get("status") in (OK, FAIL)]
        for name in ROWS
    }
    return "\n\n".join([_INTRODUCTION, _summary(checked), *_parts(checked), *_figures(checked)]) + "\n"


def _summary(checked: Checked) -> str:
    last = {name: records[-1]["rows"][name]["status"] for name, records in checked.items() if records}
    if not last:
        return f"**None of the {len(checked)} rows has been checked on a GPU yet.** {_BY_HAND}"
    failed = [name for name, status in last.items() if status == FAIL]
    names = f" ({', '.join(f'`{name}`' for name in failed)})" if failed else ""
    return (
        f"**Of {len(checked)} rows, {len(last) - len(failed)} passed when last checked, {len(failed)} failed{names}, "
        f"and {len(checked) - len(last)} have never been checked.** {_BY_HAND}"
    )


def _parts(checked: Checked) -> Iterator[str]:
    for part in PARTS:
        count = sum(bool(checked[row.name]) for row in part.rows)
        lines = [
            f"## {part.name}: {part.summary} ({count} of {len(part.rows)} checked)",
            "",
            "| row | what | where | checked | by hand |",
            "|---|---|---|---|---|",
        ]
        for row in part.rows:
            what = row.what + (f" ({row.gpus} GPUs)" if row.gpus > 1 else "")
            where = ", ".join(f"`{path}`" for path in row.where)
            lines.append(_line(f"`{row.name}`", what, where, _result(row, checked[row.name]), row.command))
        yield "\n".join(lines)


def _result(row: Row, records: Sequence[Mapping[str, Any]]) -> str:
    """Returns how a row ended in the last of its records."""
    if not records:
        return f"never; {row.by_hand}" if row.by_hand else "never"
    last = records[-1]["rows"][row.name]
    if last["status"] == OK:
        return f"ok: {_origin(records[-1])}"
    passed = _passed(row.name, records)
    before = f"; ok before: {_origin(passed[-1])}" if passed else ""
    return f"**FAIL**: {last.get('reason', '')} ({_origin(records[-1])}){before}"


def _passed(name: str, records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [record for record in records if record["rows"][name]["status"] == OK]


def _origin(record: Mapping[str, Any]) -> str:
    """Returns the device, torch, commit and date of a record."""
    machine = record["machine"]
    gpus = f"{machine['gpus']} x " if machine["gpus"] > 1 else ""
    return f"{gpus}{machine['device']}, torch {machine['torch']}, commit {record['commit']}, {record['date'][:10]}"


def _figures(checked: Checked) -> Iterator[str]:
    """Returns the table of the figures that each row measured when it last passed."""
    lines = []
    for name, records in checked.items():
        measured = [record for record in _passed(name, records) if record["rows"][name].get("figures")]
        if measured:
            figures, file = measured[-1]["rows"][name]["figures"], measured[-1]["file"]
            lines.append(_line(f"`{name}`", shown(figures), f"`results/gpu/{file}`"))
    if lines:
        yield "\n".join(["## Figures", "", "| row | measured | record |", "|---|---|---|", *lines])


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(page(read_records(RECORDS)), encoding="utf-8")
