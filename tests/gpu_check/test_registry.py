"""The registry: which rows can be chosen, and that each row names an existing check."""

import importlib
import re

import pytest

from muloco.commands.check_gpu import MINUTES, MOST_AT_ONCE
from muloco.errors import UserError
from muloco.gpu_check.registry import PARTS, ROWS, select
from muloco.settings.load import CHECKOUT


def test_rows_have_names_of_their_own() -> None:
    rows = [row for part in PARTS for row in part.rows]
    assert len(rows) == len(ROWS)
    assert all(re.fullmatch("[a-zA-Z0-9_]+", name) for name in ROWS)


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_a_row_leads_to_a_check_or_says_why_not(row) -> None:
    assert bool(row.module) != bool(row.by_hand)
    assert row.what and row.command
    for path in row.where:
        assert (CHECKOUT / "muloco" / path).exists() or (CHECKOUT / path).exists(), path
    if row.module:
        assert callable(getattr(importlib.import_module(f"muloco.gpu_check.checks.{row.module}"), row.name))
        assert row.seconds > 0
    if row.after:
        names = list(ROWS)
        assert names.index(row.after) < names.index(row.name), f"{row.after} comes later, and so would never have run"


def test_what_one_gpu_can_check_fits_into_the_time_that_is_promised() -> None:
    """By the estimates of the rows, with as many rows side by side as the default for sixteen cores."""
    rows = [row for row in select() if row.gpus == 1]
    side_by_side = [row.seconds for row in rows if not row.alone]
    seconds = sum(row.seconds for row in rows if row.alone) + max(sum(side_by_side) / MOST_AT_ONCE, *side_by_side)
    assert seconds <= 60 * MINUTES


def test_what_a_row_builds_on_is_chosen_with_it() -> None:
    chosen = [row.name for row in select(rows=["eval_two_ranks"])]
    assert chosen == ["train", "evaluation_in_training", "eval_two_ranks"]


def test_parts_and_rows_add_up_and_keep_their_order() -> None:
    chosen = [row.name for row in select(parts=["codecs"], rows=["digests"])]
    assert chosen == ["digests", "codec_rates"]
    assert [row.name for row in select()] == [name for name, row in ROWS.items() if row.module]


@pytest.mark.parametrize(
    ("parts", "rows", "message"),
    [
        (["smal"], [], "--parts: there is no 'smal'; did you mean small?"),
        ([], ["digest"], "--rows: there is no 'digest'; did you mean digests?"),
        ([], ["slurm"], "--rows: slurm can only be checked by hand: it needs a SLURM cluster"),
        (["by_hand"], [], "--parts: by_hand has no row that runs by itself; docs/untested-on-gpu.md lists them"),
    ],
)
def test_what_cannot_be_chosen(parts: list[str], rows: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        select(parts, rows)
