"""Power laws, critical batches and iso-loss over runs that follow laws which the test chooses."""

from pathlib import Path

import pytest

from muloco.analysis.power_law import PowerLaw
from muloco.analysis.records.method import Variant
from muloco.analysis.records.pooling import Group
from muloco.analysis.report.laws import (
    Scaling,
    critical_batch_table,
    iso_loss,
    iso_loss_figure,
    iso_loss_table,
    measured_scalings,
    power_law_figure,
    power_law_table,
    published_scalings,
)
from muloco.model.flavors import flavor

from .runs_on_disk import data_parallel, muloco
from .test_report_tables import group_of, theirs, values

SCALES = ("150M", "416M", "914M", "1.76B")


def on_a_law(scale: str, coefficient: float) -> float:
    """Loss at a scale's compute, by an exponent of -0.2 and an irreducible loss of 1.5."""
    size = flavor(scale)
    return coefficient * (6 * size.parameters * size.token_budget) ** -0.2 + 1.5


def lawful(root: Path, scales: tuple[str, ...]) -> Group:
    """MuLoCo needs 0.8 times DP AdamW's excess: 0.8^(1 / -0.2) = 3.05 times less compute."""
    return group_of(
        root,
        *((muloco(scale), on_a_law(scale, 5600)) for scale in scales),
        *((data_parallel("AdamW", scale), on_a_law(scale, 7000)) for scale in scales),
    )


def test_the_law_behind_the_losses_is_found_with_one_irreducible_loss(tmp_path: Path) -> None:
    found = values(power_law_table(measured_scalings(lawful(tmp_path, SCALES))))
    for method, workers, coefficient in (("MuLoCo", "2", 5600), ("DP AdamW", "", 7000)):
        assert found["", method, workers, "", "exponent"] == pytest.approx(-0.2, abs=0.001)
        assert found["", method, workers, "", "irreducible"] == pytest.approx(1.5, abs=0.01)
        assert found["", method, workers, "", "coefficient"] == pytest.approx(coefficient, rel=0.05)
    table = power_law_table(measured_scalings(lawful(tmp_path / "again", SCALES)))
    assert theirs(table)["", "MuLoCo", "2", "", "exponent"] == -0.1999


def test_two_scales_make_no_law(tmp_path: Path) -> None:
    group = lawful(tmp_path, SCALES[:2])
    assert measured_scalings(group) == {}
    figure = power_law_figure({}, published_scalings()).with_data()
    assert figure.panels == [] and "3 scales" in figure.needs


def test_iso_loss_compute_is_that_of_the_laws(tmp_path: Path) -> None:
    scalings = measured_scalings(lawful(tmp_path, SCALES))
    table = iso_loss_table(scalings, lawful(tmp_path / "again", SCALES))
    assert values(table) == {("1.76B", "MuLoCo", "2", "", "compute"): pytest.approx(0.8**-5, rel=0.01)}
    figure = iso_loss_figure(scalings, {}).with_data()
    assert [panel.title for panel in figure.panels] == ["compute for the same loss"]


def test_iso_loss_steps_take_the_critical_batch_at_each_compute() -> None:
    """Half the excess at an exponent of -1/2: 4 times the compute, so twice the tokens, at which the other's batch is
    twice as large, which leaves 2 times the steps at equal batches; and ours is 8 times as large: 16."""
    compute, tokens = (1e4, 1e6), (1e2, 1e3)
    base = Scaling(compute, (0.02, 0.002), tokens, 0.0, PowerLaw(coefficient=1, exponent=1))
    ours = Scaling(compute, (0.01, 0.001), tokens, 0.0, PowerLaw(coefficient=8, exponent=1))
    assert iso_loss(ours, base, 1e6) == {"compute": pytest.approx(4), "steps": pytest.approx(16)}


def test_the_papers_own_exponents_and_savings_come_out() -> None:
    """Exponents within .004 of the printed ones, as a plain refit has them too; compute and steps at 3.1B within 4 %
    and, for a critical batch on a grid of factor 2, within a third of what is read off the figures."""
    from muloco.analysis.published import EXPONENT, ISO_LOSS

    scalings = published_scalings()
    for name, exponent in EXPONENT.items():
        assert scalings[_variant(name)].law.exponent == pytest.approx(exponent, abs=0.004), name
    for name, (compute, steps) in ISO_LOSS.items():
        found = iso_loss(scalings[_variant(name)], scalings[Variant("DP AdamW")], scalings[_variant(name)].compute[-1])
        assert found["compute"] == pytest.approx(compute, rel=0.04), name
        assert found["steps"] == pytest.approx(steps, rel=0.34), name


def test_the_legend_of_the_papers_laws_has_the_exponent_of_the_table_and_ours() -> None:
    from muloco.analysis.published import EXPONENT

    figure = power_law_figure({}, published_scalings())
    told = {line.look: line.label for panel in figure.panels for line in panel.series if line.label}
    printed = power_law_table({}).published
    for name, exponent in EXPONENT.items():
        assert printed[("", _variant(name)), "exponent"] == exponent
        refitted = published_scalings()[_variant(name)].law.exponent
        assert told[_variant(name).label] == (
            f"{_variant(name).label}, exponent {exponent:.4f} published, {refitted:.4f} refitted here"
        )


def test_critical_batches(tmp_path: Path) -> None:
    """Within 1 % of 2.5 are losses up to 2.525."""
    losses = {256: 2.51, 512: 2.5, 1024: 2.52, 2048: 2.53}
    group = group_of(
        tmp_path,
        *((data_parallel(training__global_batch_size=batch), loss) for batch, loss in losses.items()),
        (data_parallel(training__global_batch_size=1024, lr=0.5), 2.7),
        (muloco(), 2.6),
    )
    table = critical_batch_table(group)
    assert values(table) == {("", "DP Muon", "", "", "416M"): 1024 * 2048}
    assert theirs(table) == {("", "DP Muon", "", "", "416M"): 2**20}
    assert next(table.wide().cells())[-1] == ("2,097,152", "1,048,576")


def _variant(name: str) -> Variant:
    method, _, workers = name.partition(" K=")
    return Variant(method, int(workers) if workers else None)
