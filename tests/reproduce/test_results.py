"""Tables and figure over losses that a test chooses, against figures worked out by hand."""

from collections.abc import Callable, Mapping

import pytest

from muloco.analysis.table import TextTable
from muloco.reproduce import figure as figures
from muloco.reproduce.design import FULL, Design, Setting
from muloco.reproduce.results import by_batch, compared, final_losses, pooled, study_table


class Found:
    """In a queue's place: a design, and the losses that were found by the name of a setting."""

    def __init__(self, losses: Callable[[str], Mapping[int, float] | None]):
        self.design, self._losses = Design(FULL), losses

    def chosen(self, setting: Setting) -> Mapping[int, float]:
        return self._losses(setting.name) or {}

    def rate(self, setting: Setting) -> float | None:
        return 0.25 if self.chosen(setting) else None


def rows(table: TextTable) -> list[list[str]]:
    return [list(row) for row in table.rows]


def test_losses_are_pooled_and_compared_by_seed() -> None:
    assert pooled({1: 2.0, 2: 2.2}) == "2.1000 ± 0.1414 (n=2)" and pooled({7: 2.0}) == "2.0000 (n=1)"
    assert pooled({}) == "not run"
    assert compared({1: 2.02, 2: 3.03, 3: 9.0}, {1: 2.0, 2: 3.0}) == "+1.00 ± 0.00"
    assert compared({1: 2.02}, {1: 2.0, 2: 3.0}) == "+1.00"
    assert compared({1: 2.0}, {2: 2.0}) == compared({}, {1: 2.0}) == "not run"


def test_the_main_table_is_over_the_own_baseline() -> None:
    known = {"dp-muon": {1: 2.0, 2: 3.0}, "dp-adamw": {1: 4.0}, "muloco-K2": {1: 2.02, 2: 3.03}, "diloco-K8": {1: 4.4}}
    found = {(row[0], row[1]): row[2:] for row in rows(final_losses(Found(known.get)))}
    assert found["DP Muon", ""] == ["0.25", "2.5000 ± 0.7071 (n=2)", ""]
    assert found["MuLoCo", "2"][2] == "+1.00 ± 0.00" and found["DiLoCo", "8"][2] == "+10.00"
    assert found["MuLoCo", "1"] == ["not run"] * 3
    assert list(found)[2:] == [(method, str(k)) for k in (1, 2, 4, 8) for method in ("MuLoCo", "DiLoCo")]


def test_critical_batches_lie_between_those_tried() -> None:
    """1 % above the best of 4 sequences: at 16 for MuLoCo, halfway from 8 to 16 for DiLoCo; DiLoCo has one seed."""
    known = {
        **{"muloco-K1-B4": {1: 2.0, 2: 2.0}, "muloco-K1-B8": {1: 2.0, 2: 2.0}, "muloco-K1": {1: 2.02, 2: 2.02}},
        **{"muloco-K1-B32": {1: 3.0, 2: 3.0}},
        **{"diloco-K1-B4": {1: 2.0}, "diloco-K1-B8": {1: 2.0}, "diloco-K1": {1: 2.04}, "diloco-K1-B32": {1: 3.0}},
    }
    table = by_batch(Found(known.get))
    assert list(table.headers) == ["method", *(f"{batch} sequences" for batch in (4, 8, 16, 32)), "critical batch"]
    muloco, diloco = rows(table)
    assert muloco[-1] == "16.0" and diloco[-1] == "11.3"
    assert diloco[1] == "2.0000 (n=1), lr 0.25"
    assert rows(by_batch(Found(lambda name: None)))[0][1:] == ["not run"] * 5


@pytest.mark.parametrize("number", range(4))
def test_studies_are_compared_with_their_first_row(number: int) -> None:
    study = Design(FULL).studies[number]
    first, second, *_ = study.rows.values()
    known = {first.name: {1: 2.0, 2: 4.0}, second.name: {1: 2.1, 2: 4.0}}
    table = study_table(Found(known.get), study)
    found = rows(table)
    assert [row[0] for row in found] == list(study.rows) and table.notes == [study.question]
    assert found[0][2:] == ["3.0000 ± 1.4142 (n=2)", ""]
    assert found[1][3] == "+2.50 ± 31.77"  # 5 and 0; t of one degree of freedom is 12.706
    assert found[2][1:] == ["not run"] * 3


def test_the_figure_has_a_panel_for_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "agreements", lambda queue: ([], []))
    known = {"dp-muon": {1: 2.0, 2: 4.0}, "muloco-K1": {1: 2.0, 2: 4.0}, "muloco-K4": {1: 2.2, 2: 4.4}}
    loss, over = figures.figure(Found(known.get)).panels
    muloco, diloco, level = loss.series
    assert (list(muloco.x), list(muloco.y)) == ([1, 4], [3.0, pytest.approx(3.3)]) and not diloco.x
    assert level.horizontal and (level.label, list(level.y)) == ("DP Muon", [3.0])
    assert list(over.series[0].y) == pytest.approx([0, 10]) and over.series[0].spread == pytest.approx([0, 0])
