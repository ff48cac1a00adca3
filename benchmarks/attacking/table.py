"""The record of a whole catalogue of attacks, and a table of it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attacking.registry import BAD, Attack, Report, Verdict

COLUMNS = (Verdict.SURVIVED, Verdict.REFUSED, Verdict.ENDED, Verdict.HUNG, Verdict.LOST)


def entry(attack: Attack, report: Report, seconds: float) -> dict[str, Any]:
    """Returns a line of the record."""
    return {
        "family": attack.family,
        "attack": attack.name,
        "does": attack.does,
        "must": attack.must,
        "verdicts": {str(verdict): count for verdict, count in report.counts.items() if count},
        "notes": report.notes,
        "seconds": round(seconds, 1),
    }


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a record, without the first one, which describes the machine."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "attack" in line]


def counts(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the lines of a table with the number of tries by family and verdict."""
    families = list(dict.fromkeys(line["family"] for line in entries))
    rows = [["attacks on", "tried", *map(str, COLUMNS)]]
    for family in families:
        rows.append([family, *_counts(line for line in entries if line["family"] == family)])
    rows.append(["all", *_counts(entries)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]


def table(entries: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table of tries by family and verdict, then the failures, and the attacks that were not possible."""
    text = counts(entries)
    for line in entries:
        if bad := {verdict: line["verdicts"][verdict] for verdict in map(str, BAD) if verdict in line["verdicts"]}:
            what = ", ".join(f"{count} {verdict}" for verdict, count in bad.items())
            text.append(f"{line['family']}, {line['attack']}: {what}: {'; '.join(line['notes'])}")
    for line in entries:
        if Verdict.IMPOSSIBLE in line["verdicts"]:
            text.append(f"{line['family']}, {line['attack']}: {Verdict.IMPOSSIBLE}: {'; '.join(line['notes'])}")
    return "\n".join(text)


def failed(entries: Iterable[Mapping[str, Any]]) -> bool:
    """Whether anything hung or was lost."""
    return any(verdict in line["verdicts"] for line in entries for verdict in map(str, BAD))


def _counts(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    by_verdict = {verdict: 0 for verdict in COLUMNS}
    for line in entries:
        for verdict in COLUMNS:
            by_verdict[verdict] += line["verdicts"].get(str(verdict), 0)
    return [str(count) for count in (sum(by_verdict.values()), *by_verdict.values())]
