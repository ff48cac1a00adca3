"""Tables at the widths that terminals have: every name and number in one piece."""

import re

import pytest
from rich.console import Console

from muloco.analysis.plan import plan
from muloco.analysis.plan_table import plan_tables, total
from muloco.analysis.pseudogradients.tables import console_tables
from muloco.analysis.table import TextTable
from muloco.analysis.terminal import Column, fitted
from muloco.evals.report import table
from muloco.resolve import resolve
from muloco.settings.load import load_config

NAMES = ["muloco-streaming-compressed_416M_K8_B512_lr0.04728708_outer-lr0.64_bits4", "[bold]short[/bold]"]


def printed(tables: list, width: int) -> str:
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        for shown in tables:
            console.print(shown)
    return capture.get()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_name_and_no_number_is_cut(width: int) -> None:
    columns = [Column(f"column {n}", [f"{10**n}.25", f"-{n}"]) for n in range(12)]
    text = printed(fitted("a title", Column("run", NAMES), columns, width=width), width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    words = set(text.split())
    assert {*NAMES, *(column.cells[0] for column in columns), *(column.cells[1] for column in columns)} <= words
    assert all(text.count(column.header + " ") == 1 for column in columns)
    assert text.count("a title") == 1


def test_agreement_is_listed_by_checkpoint_and_workers() -> None:
    headers = ("checkpoint", "K", "cosine", "quartiles", "paper", "gap %", "paper", "top 5 %", "of the mean")
    rows = [
        (f"a-run-whose-name-takes-some-room, step {step}", "16", *[f"{step}.{n}" for n in range(7)]) for step in (1, 2)
    ]
    text = printed(console_tables(TextTable("agreement", "a title", headers, rows, ["a note"]), width=80), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("a-run-whose-name-takes-some-room, step 2, K = 16") == 3
    assert {f"{step}.{n}" for step in (1, 2) for n in range(7)} <= set(text.split())


def test_long_names_of_tasks_are_whole() -> None:
    name = "mmlu_high_school_government_and_politics_and_more"
    results = {"results": {name: {"acc,none": 0.25, "acc_stderr,none": 0.01}}}
    text = printed([table(results, [name], title="[a] run, step 4")], 80)
    assert "[a] run, step 4" in text and "…" not in text
    cells = "".join(line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│"))
    assert cells.startswith(name)


def test_a_table_that_fits_stays_whole() -> None:
    tables = fitted("", Column("run", ["a", "b"]), [Column("x", ["1", "2"]), Column("y", ["3", "4"])], width=80)
    assert len(tables) == 1 and [column.header for column in tables[0].columns] == ["run", "x", "y"]


def test_the_last_table_does_not_have_a_single_column() -> None:
    columns = [Column(f"column {n}", [str(n)]) for n in range(5)]
    tables = fitted("", Column("run", ["a"]), columns, width=54)
    assert [len(table.columns) for table in tables] == [4, 3]


def test_names_that_leave_no_room_are_listed_by_number() -> None:
    listing, numbered = fitted("", Column("run", NAMES), [Column("x", ["1", "2"])], width=75)
    assert [column.header for column in listing.columns] == ["#", "run"]
    assert [column.header for column in numbered.columns] == ["#", "x"]


@pytest.mark.parametrize(("steps", "unit"), [(180, "seconds"), (10**5, "minutes"), (10**9, "hours")])
def test_a_plan_is_told_in_a_unit_in_which_it_is_no_zero(steps: int, unit: str) -> None:
    """One of the smallest model at 1 Gbit/s: .0038 s a step."""
    config = load_config("config/laptop/muloco.py", ["--training.steps", str(steps)])
    one = plan(resolve(config), name="mine")
    text = printed(plan_tables([one], [1.0], hardware="H100", width=80), 80)
    assert f"GPU-{unit}" in text
    assert all(float(number.replace(",", "")) > 0 for number in re.findall(r"[\d.,]*\d", text))
    assert total([one, one], [1.0]).startswith(f"GPU-{unit} of all 2 runs by Gbit/s: ")
