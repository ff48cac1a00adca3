"""What a sweep looks like on terminals of several widths."""

import io
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from muloco.sweeps.listing import COLUMNS, STATUS, origins_of, table

PAPER = (Path(__file__).parent / "golden" / "whole_paper.tsv").read_text().splitlines()[1:]
JOBS = [tuple(line.split("\t")) for line in PAPER]
STATES = [
    ("tiny_lr0.01", "done", "17", "20/20", "5.1234", "5.2345", ""),
    ("tiny_[lr]0.02_with-a-name-that-is-rather-long", "failed", "18", "3/20", "7.1", "", "FAILED, exit status 1: " * 9),
    ("tiny_lr0.03", "not submitted", "", "", "", "", ""),
]


def shown(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(table(columns, rows, width=width))
    return console.file.getvalue().splitlines()


def bare(text: str) -> str:
    return "".join(text.replace("│", "").split())


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(("columns", "rows"), [(COLUMNS, JOBS), (STATUS, STATES)], ids=["jobs", "status"])
def test_on_a_narrow_terminal_a_name_has_a_line_of_its_own(columns, rows, width: int) -> None:
    lines = shown(columns, rows, width)
    assert max(map(len, lines)) <= width
    values = slice(1, -1 if columns is STATUS else None)
    for cells in rows:
        at = lines.index(cells[0])
        assert bare(lines[at + 1]) == bare("".join(cells[values]))
        if columns is STATUS:
            assert bare("".join(lines[at + 2 :])).startswith(bare(cells[-1]))


@pytest.mark.parametrize(("columns", "rows"), [(COLUMNS, JOBS), (STATUS, STATES)], ids=["jobs", "status"])
def test_on_a_wide_terminal_it_is_a_table(columns, rows) -> None:
    lines = [bare(line) for line in shown(columns, rows, 400)]
    assert all(bare("".join(cells)) in lines for cells in rows)


def test_where_values_come_from_is_told_by_field() -> None:
    origins = [{"a.b": "published: PAPER 4.1", "a.c": "rule: doubled"}, {"a.b": "published: PAPER 4.3", "a.c": "mine"}]
    jobs = [SimpleNamespace(origins=one) for one in origins]
    assert origins_of(jobs) == ["a.b: as published in 2 jobs", "a.c: by the rule in 1 job, mine in 1 job"]  # type: ignore[arg-type]
