"""docs/outer-loop.md: its commands as the command line reads them, its picture, its tables."""

import re
import shlex
from typing import get_args, get_type_hints

import pytest

from muloco.outer.fragments import Schedule
from muloco.outer.sync import statistics_table
from muloco.resolve import resolve
from muloco.settings.config import Config
from muloco.settings.fault_tolerance import FaultTolerance
from muloco.settings.load import CHECKOUT, flatten, load_config
from muloco.settings.outer import OuterOptimizer

TEXT = (CHECKOUT / "docs" / "outer-loop.md").read_text()
(BLOCK,) = re.findall(r"^```bash\n(.*?)^```$", TEXT, re.M | re.S)


@pytest.mark.parametrize("command", BLOCK.splitlines())
def test_every_command_can_run(command: str) -> None:
    words = shlex.split(command)
    assert words[:2] == ["muloco", "train"]
    assert resolve(load_config(words[2], words[3:])).training.steps == 180


def test_local_sgd_is_what_its_command_makes() -> None:
    (words,) = (shlex.split(line) for line in BLOCK.splitlines() if "local_sgd" in line)
    resolved = resolve(load_config(words[2], words[3:]))
    assert (resolved.outer_optimizer.lr, resolved.outer_optimizer.momentum) == (1.0, 0.0)


def test_the_picture_is_the_schedule() -> None:
    heading, *rows = re.findall(r"^    ((?:inner step|fragment \d) .*)$", TEXT, re.M)
    columns = {match.start(): int(match[0]) for match in re.finditer(r"\d+", heading)}
    ends = {start + len(str(step)) - 1: step for start, step in columns.items()}
    schedule = Schedule(sync_interval=12, fragments=3, delay=2)
    assert len(rows) == 3 and sorted(ends.values()) == list(range(1, 19))
    for fragment, row in enumerate(rows):
        marks = {step: row[column] for column, step in ends.items()}
        sent = [step for step, mark in marks.items() if mark == "S"]
        applied = [step for step, mark in marks.items() if mark == "A"]
        assert sent == [step for step in marks if schedule.sent_after(step) == fragment] != []
        assert applied == [step for step in marks if schedule.due_after(step) == fragment] != []


def test_the_fields_and_values_that_it_names_exist() -> None:
    section = TEXT.split("## What the metrics say")[0]
    named = set(re.findall(r"`(?:fault_tolerance|outer_optimizer)\.\w+`", section))
    assert len(named) > 5 and {name.strip("`") for name in named} <= flatten(Config()).keys()
    for table, field, of in (
        ("outer_optimizer.class_name", "class_name", OuterOptimizer),
        ("fault_tolerance.transport", "transport", FaultTolerance),
    ):
        (rows,) = re.findall(rf"^\| `{table}` \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.M)
        assert re.findall(r"^\| `(\w+)`", rows, re.M) == list(get_args(get_type_hints(of)[field]))


def test_the_table_of_the_statistics_of_a_sync_is_generated() -> None:
    assert statistics_table() in TEXT
