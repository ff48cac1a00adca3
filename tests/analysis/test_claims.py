"""Claims over runs with known losses, against figures worked out by hand."""

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from muloco.analysis.claims.agreement import Agreement, agreement_claims, read_agreement
from muloco.analysis.claims.evidence import Claim, Part, Verdict, slope_by_doubling
from muloco.analysis.claims.losses import loss_claims
from muloco.analysis.critical_batch import crossing
from muloco.analysis.records.pooling import groups, pool
from muloco.analysis.records.runs import read_run
from muloco.analysis.report.contents import build
from muloco.settings.config import Config

from .runs_on_disk import data_parallel, diloco, finished, muloco

SEEDS = (1, 2, 3)


def claims_of(root: Path, *runs: tuple[Config, float]) -> dict[str, Claim]:
    """The claims about runs at 416M with these losses."""
    read = [read_run(finished(root / str(number), config, loss))[0] for number, (config, loss) in enumerate(runs)]
    (group,) = groups(pool(run for run in read if run is not None)[0])
    return {claim.title: claim for claim in loss_claims(group, "416M")}


def seeded(make, losses: Mapping[int, float], *chosen, **changes) -> list[tuple[Config, float]]:
    return [(make(*chosen, run__seed=seed, **changes), loss) for seed, loss in losses.items()]


def test_an_interval_is_students(tmp_path: Path) -> None:
    """The values 1, 2, 3 have mean 2, deviation 1; t of 97.5 % with two degrees of freedom is 4.3027 in any table."""
    part = Part(label="K=2", values=(1.0, 2.0, 3.0))
    assert part.mean == 2 and part.margin == pytest.approx(4.30265 / math.sqrt(3), abs=1e-5)
    assert part.describe() == "K=2: +2.00 ± 2.48 (n=3, undecided)"
    assert Part(label="K=2", values=(1.0,)).describe(".1f") == "K=2: 1.0 (n=1, undecided)"


@pytest.mark.parametrize(
    ("values", "bound", "verdict"),
    [
        ((-1.0, -1.1, -0.9), 0.0, Verdict.HOLDS),
        ((1.0, 1.1, 0.9), 0.0, Verdict.FAILS),
        ((1.0, 1.1, 0.9), 2.0, Verdict.HOLDS),
        ((-1.0, 1.1, -0.9), 0.0, Verdict.UNDECIDED),
        ((-1.0,), 0.0, Verdict.UNDECIDED),
        ((0.0, 0.0), 0.0, Verdict.UNDECIDED),
    ],
)
def test_a_part_is_decided_by_its_whole_interval(values: tuple[float, ...], bound: float, verdict: Verdict) -> None:
    assert Part(label="", values=values, bound=bound).verdict == verdict


def test_one_part_decides_against_a_claim_and_all_for_it() -> None:
    good, bad, open_ = (Part(label="", values=values) for values in ((-1, -1.1), (1, 1.1), (-1, 1)))
    for parts, verdict in (
        ([good, good], Verdict.HOLDS),
        ([good, open_], Verdict.UNDECIDED),
        ([good, open_, bad], Verdict.FAILS),
        ([], Verdict.MISSING),
    ):
        assert Claim(title="", about="", parts=parts).verdict == verdict


def test_numbers_are_of_runs_of_one_seed(tmp_path: Path) -> None:
    """Seeds lie far apart, methods of one seed .5 % apart: the claim holds for all that."""
    ours = {1: 3.0, 2: 2.0, 3: 2.5}
    theirs = {1: 3.015, 2: 2.0101, 3: 2.5126, 4: 9.0}
    claim = claims_of(tmp_path, *seeded(muloco, ours), *seeded(diloco, theirs))["MuLoCo is below DiLoCo at every K"]
    (part,) = claim.parts
    assert part.label == "K=2" and part.values == pytest.approx([-0.4975, -0.5025, -0.5015], abs=1e-4)
    assert claim.verdict == Verdict.HOLDS
    assert "K=8: -2.18" in claim.paper and "K=1: -0.70" in claim.paper


def test_the_rate_that_one_seed_has_found_stays_the_best_with_more_seeds(tmp_path: Path) -> None:
    """Though its mean over three seeds is above the other's single one."""
    claim = claims_of(
        tmp_path,
        *seeded(muloco, {1: 2.0, 2: 2.4, 3: 2.4}, lr=0.02),
        *seeded(muloco, {1: 2.1}, lr=0.04),
        *seeded(diloco, {1: 4.0, 2: 4.0, 3: 4.0}),
    )["MuLoCo is below DiLoCo at every K"]
    assert claim.parts[0].values == pytest.approx([-50, -40, -40])


def test_the_best_is_compared_with_all_others_at_batches_that_all_have(tmp_path: Path) -> None:
    claim = claims_of(
        tmp_path,
        *seeded(muloco, {1: 2.0, 2: 2.1}, "416M", 1),
        *seeded(muloco, {1: 1.0, 2: 1.0}, "416M", 1, training__global_batch_size=256),
        *seeded(muloco, {1: 2.5, 2: 2.5}, "416M", 8),
        *seeded(diloco, {1: 2.2, 2: 2.1}, "416M", 1),
        *seeded(data_parallel, {1: 2.5, 2: 2.1}),
    )["MuLoCo with K = 1 is the best of all"]
    assert {part.label: tuple(round(value, 3) for value in part.values) for part in claim.parts} == {
        "DP Muon": (-20.0, 0.0),
        "MuLoCo K=8": (-20.0, -16.0),
        "DiLoCo K=1": (-9.091, 0.0),
    }
    assert claim.verdict == Verdict.UNDECIDED


def test_gaps_are_compared_by_their_slopes(tmp_path: Path) -> None:
    """MuLoCo: 0, 1, 2 % over DP Muon at K = 1, 2, 4; DiLoCo: 0, 2, 4 % over DP AdamW."""
    runs = [
        *seeded(data_parallel, {1: 2.0, 2: 3.0}),
        *seeded(lambda **c: data_parallel("AdamW", **c), {1: 4.0, 2: 5.0}),
    ]
    for place, workers in enumerate((1, 2, 4)):
        runs += seeded(muloco, {1: 2 * (1 + 0.01 * place), 2: 3 * (1 + 0.01 * place)}, "416M", workers)
        runs += seeded(diloco, {1: 4 * (1 + 0.02 * place), 2: 5 * (1 + 0.02 * place)}, "416M", workers)
    (part,) = claims_of(tmp_path, *runs)["DiLoCo's gap grows faster with K"].parts
    assert part.values == pytest.approx([-1, -1])


def test_critical_batches_are_interpolated(tmp_path: Path) -> None:
    """Halfway between 512 and 1024 for the one, not above 512 for the other."""
    runs = []
    for make, losses in ((muloco, (2.0, 2.0, 2.04)), (diloco, (2.0, 2.02, 2.5))):
        for batch, loss in zip((256, 512, 1024), losses, strict=True):
            runs += seeded(make, {1: loss, 2: 2 * loss}, "416M", 1, training__global_batch_size=batch)
    claim = claims_of(tmp_path, *runs)["MuLoCo's critical batch is larger"]
    assert claim.parts[0].values == pytest.approx([-0.5, -0.5])
    assert crossing({256: 2.0, 512: 2.0, 1024: 2.04}) == pytest.approx(512 * math.sqrt(2))
    assert crossing({256: 2.0, 512: 2.01}) == 512


def test_what_is_free_may_cost_three_tenths_of_a_percent(tmp_path: Path) -> None:
    four = {"compression__kind": "linear", "compression__bits": 4}
    two = {"compression__kind": "linear", "compression__bits": 2}
    pieces = {"fault_tolerance__num_fragments": 3}
    claims = claims_of(
        tmp_path,
        *seeded(muloco, {1: 2.0, 2: 2.0}),
        *seeded(muloco, {1: 2.004, 2: 2.0042}, **four),
        *seeded(muloco, {1: 3.0, 2: 3.0}, **two),
        *seeded(muloco, {1: 2.01, 2: 2.0101}, **pieces),
    )
    bits, streaming = claims["4 bits are free"], claims["Streaming is free"]
    assert bits.verdict == Verdict.HOLDS and bits.parts[0].values == pytest.approx([0.2, 0.21])
    assert bits.parts[0].label == "MuLoCo K=2, linear 4 bits"
    assert streaming.verdict == Verdict.FAILS and streaming.parts[0].values == pytest.approx([0.5, 0.505])


def test_a_report_has_the_claims_for_which_there_are_runs(tmp_path: Path) -> None:
    runs = [*seeded(muloco, {1: 2.0, 2: 2.0}), *seeded(diloco, {1: 2.1, 2: 2.1})]
    read = [read_run(finished(tmp_path / str(number), *run))[0] for number, run in enumerate(runs)]
    report = build([run for run in read if run is not None], [], published=False)
    (table,) = [table for table in report.sections[0].tables if table.name == "claims"]
    assert [list(row[:4]) for row in table.wide().rows] == [
        ["416M", "MuLoCo is below DiLoCo at every K", "holds", "K=2: -4.76 ± 0.00 (n=2)"]
    ]


def test_claims_about_pseudogradients() -> None:
    muon = [Agreement({2: 0.9, 4: 0.8}, {2: 10 + seed, 4: 9 + seed}) for seed in range(3)]
    adamw = [Agreement({2: 0.8, 4: 0.9}, {2: 10 + seed, 4: 12 + seed}) for seed in range(3)]
    ordering, trends = agreement_claims(muon, adamw)
    assert [part.values for part in ordering.parts] == [pytest.approx([-0.1] * 3), pytest.approx([0.1] * 3)]
    assert ordering.verdict == Verdict.FAILS
    assert {part.label: part.values for part in trends.parts} == {"DP AdamW, negated": [-2] * 3, "DP Muon": [-1] * 3}
    assert trends.verdict == Verdict.HOLDS
    assert [claim.verdict for claim in agreement_claims([], [])] == [Verdict.MISSING] * 2


def test_agreement_is_read_from_a_study(tmp_path: Path) -> None:
    (tmp_path / "matrices.csv").write_text(
        "checkpoint,workers,matrix,cosine,gap\n"
        '"a, step 5",1,w,1,0\n"a, step 5",2,w,0.5,0.1\n"a, step 5",2,v,0.7,0.2\n"b, step 5",2,w,0.1,0.9\n'
    )
    agreement = read_agreement(tmp_path, "a, step 5")
    assert agreement.cosine == {2: pytest.approx(0.6)} and agreement.gap == {2: pytest.approx(15)}
    with pytest.raises(ValueError, match="has nothing of c"):
        read_agreement(tmp_path, "c")


def test_slopes_are_by_doubling() -> None:
    assert slope_by_doubling({1: 3, 2: 5, 4: 7, 8: 9}) == pytest.approx(2)
