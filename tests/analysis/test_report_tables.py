"""The paper's tables over runs with known losses, against figures worked out by hand."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from muloco.analysis import published
from muloco.analysis.chart import Figure
from muloco.analysis.records.method import Variant
from muloco.analysis.records.pooling import Group, groups, pool
from muloco.analysis.records.runs import read_run
from muloco.analysis.report.ablations import _by_size, compression_tables, streaming_tables, sync_interval_tables
from muloco.analysis.report.contents import PAPER
from muloco.analysis.report.figures import compression, loss_against_batch, loss_curves, worker_scaling
from muloco.analysis.report.tables import batches, choices, final_loss, over_baseline, zero_shot
from muloco.analysis.report.value_table import Table
from muloco.analysis.report.wall_time import published_times, wall_clock_figure, wall_clock_table
from muloco.outer.codecs import KINDS, default_codec
from muloco.recipes import base
from muloco.runs.folder import MetricsWriter, RunFolder, write_json
from muloco.settings.config import Config

from .runs_on_disk import data_parallel, diloco, finished, muloco

NOTHING = Group(PAPER, ())


def group_of(root: Path, *runs: tuple[Config, float], **summary: Any) -> Group:
    """The one group of runs with these final losses."""
    folders = [finished(root / str(number), config, loss, **summary) for number, (config, loss) in enumerate(runs)]
    points, _ = pool(run for run, _ in map(read_run, folders) if run is not None)
    (group,) = groups(points)
    return group


def values(table: Table) -> dict[tuple[str, ...], float]:
    """Measured values by scale, method, K, variant and column."""
    return {(scale, *variant.key, column): cell.value for ((scale, variant), column), cell in table.measured.items()}


def theirs(table: Table) -> dict[tuple[str, ...], float]:
    """The published values beside them, by the same names."""
    return {(scale, *variant.key, column): value for ((scale, variant), column), value in table.beside.items()}


def drawn(figure: Figure) -> Figure:
    return figure.with_data()


def test_the_final_loss_is_that_of_the_best_rate_and_batch_with_the_published_one_beside(tmp_path: Path) -> None:
    group = group_of(
        tmp_path,
        (muloco(lr=0.02), 2.7),
        (muloco(lr=0.04), 2.6),
        (muloco(lr=0.04, run__seed=1), 2.64),
        (muloco(lr=0.04, training__global_batch_size=1024), 2.65),
        (muloco(workers=3, training__global_batch_size=510), 2.8),
        (muloco(fault_tolerance__sync_steps=60), 2.9),
        (muloco("150M"), 3.1),
        (data_parallel(), 2.5),
    )
    table = final_loss(group)
    assert values(table) == {
        ("", "MuLoCo", "2", "", "416M"): pytest.approx(2.62),
        ("", "MuLoCo", "3", "", "416M"): 2.8,
        ("", "MuLoCo", "2", "H=60", "416M"): 2.9,
        ("", "MuLoCo", "2", "", "150M"): 3.1,
        ("", "DP Muon", "", "", "416M"): 2.5,
    }
    assert theirs(table) == {
        ("", "MuLoCo", "2", "", "416M"): 2.6416,
        ("", "MuLoCo", "2", "", "150M"): 3.130,
        ("", "DP Muon", "", "", "150M"): 3.124,
        ("", "DP Muon", "", "", "416M"): 2.641,
    }
    pooled = table.measured[("", Variant("MuLoCo", 2)), "416M"]
    assert pooled.seeds == 2 and pooled.spread == pytest.approx(0.04 / 2**0.5)
    assert "upper edge" in pooled.note
    wide = table.wide()
    assert wide.headers == ["method", "K", "variant", "150M", "416M"]
    assert list(wide.cells())[1][-1] == ("2.6200 ± 0.0283 (n=2)", "2.6416")


def test_percent_over_the_own_baseline(tmp_path: Path) -> None:
    """2.6 is 4 % over DP Muon's 2.5, not compared with DP AdamW's 2.0; DiLoCo's 2.2 is 10 % over that. Where there is
    no baseline the cell says so."""
    group = group_of(
        tmp_path,
        (muloco(), 2.6),
        (data_parallel("Muon", lr=0.1), 2.7),
        (data_parallel("Muon", lr=0.2), 2.5),
        (data_parallel("AdamW"), 2.0),
        (diloco(), 2.2),
        (muloco("150M"), 3.0),
    )
    table = over_baseline(group)
    assert values(table) == {
        ("", "MuLoCo", "2", "", "416M"): pytest.approx(4.0),
        ("", "DiLoCo", "2", "", "416M"): pytest.approx(10.0),
    }
    assert table.missing == {(("", Variant("MuLoCo", 2)), "150M"): "no DP Muon"}
    assert theirs(table)["", "DiLoCo", "2", "", "416M"] == -0.50
    rows = {row[0][0]: row for row in table.wide().cells()}
    assert rows["MuLoCo"][2:] == [("no DP Muon", "+0.19"), ("+4.00", "+0.03")]


def test_losses_by_batch(tmp_path: Path) -> None:
    group = group_of(
        tmp_path,
        (data_parallel(flavor="3.1B", lr=0.02), 2.3),
        (data_parallel(flavor="3.1B", lr=0.04), 2.2),
        (data_parallel(flavor="3.1B", training__global_batch_size=128), 2.4),
        (data_parallel(flavor="3.1B", training__global_batch_size=16), 2.5),
    )
    table = batches(group)
    assert values(table) == {
        ("3.1B", "DP Muon", "", "", "32,768"): 2.5,
        ("3.1B", "DP Muon", "", "", "262,144"): 2.4,
        ("3.1B", "DP Muon", "", "", "1,048,576"): 2.2,
    }
    assert table.columns == ["32,768", "262,144", "1,048,576"]
    assert {column: value for (_, column), value in table.beside.items()} == {"262,144": 2.1356, "1,048,576": 2.1277}


def test_sync_intervals_are_compared_at_batches_that_all_of_them_have(tmp_path: Path) -> None:
    """H = 30 is best at a batch of 1024, which H = 60 was not run with; so 512 counts, and there 2.6."""
    group = group_of(
        tmp_path,
        (muloco(workers=8), 2.6),
        (muloco(workers=8, training__global_batch_size=1024), 2.4),
        (muloco(workers=8, fault_tolerance__sync_steps=60), 2.75),
        (muloco(workers=4), 2.55),
        (data_parallel(), 2.5),
    )
    loss, over = sync_interval_tables(group)
    assert values(loss) == {("416M", "MuLoCo", "8", "", "30"): 2.6, ("416M", "MuLoCo", "8", "", "60"): 2.75}
    assert values(over) == {
        ("416M", "MuLoCo", "8", "", "30"): pytest.approx(4.0),
        ("416M", "MuLoCo", "8", "", "60"): pytest.approx(10.0),
    }
    assert sorted(over.beside.values()) == [1.03, 1.86]


def test_compression_stands_beside_fp32_and_the_paper(tmp_path: Path) -> None:
    def packed(**options: Any) -> Config:
        return base.compressed(muloco(workers=8), **options)

    group = group_of(
        tmp_path,
        (muloco(workers=8), 2.5),
        (packed(kind="linear", bits=4, granularity="row"), 2.55),
        (packed(kind="linear", bits=4, granularity="row", reduce="gather"), 2.525),
        (packed(kind="linear", bits=3), 2.65),
        (packed(kind="topk", fraction=0.1, error_feedback=False), 2.75),
        (base.compressed(muloco(workers=4), "linear", bits=4), 2.9),
    )
    loss, over = compression_tables(group)
    feedback = "linear, per row, error feedback"
    gathered = "linear, per row, gathered, error feedback"
    assert values(over) == {
        ("416M", "MuLoCo", "8", feedback, "4 bits"): pytest.approx(2.0),
        ("416M", "MuLoCo", "8", gathered, "4 bits"): pytest.approx(1.0),
        ("416M", "MuLoCo", "8", "linear, error feedback", "3 bits"): pytest.approx(6.0),
        ("416M", "MuLoCo", "8", "topk", "10 %"): pytest.approx(10.0),
    }
    (((scale, squeezed), column), reason) = next(iter(over.missing.items()))
    assert (scale, squeezed.label, column) == ("416M", "MuLoCo K=4, linear, error feedback", "4 bits")
    assert reason == "no run with fp32" and len(over.missing) == 1
    assert loss.columns == ["fp32", "3 bits", "4 bits", "10 %"]
    beside = {(cell[3], cell[4]): value for cell, value in theirs(loss).items() if cell[4] != "fp32"}
    assert beside == {(feedback, "4 bits"): 2.6543, (gathered, "4 bits"): 2.6543, ("topk", "10 %"): 2.777}
    assert theirs(over)["416M", "MuLoCo", "8", "topk", "10 %"] == pytest.approx(100 * (2.777 / 2.6477 - 1))


@pytest.mark.parametrize("kind", KINDS)
def test_every_codec_has_a_column_in_the_tables_of_compression(kind: str, tmp_path: Path) -> None:
    """Behind fp32, whatever its size is called; one that says bits, or a share, is a point of the figure."""
    if kind == "none":
        return
    group = group_of(tmp_path, (muloco(), 2.5), (base.compressed(muloco(), kind), 2.6))
    loss, _ = compression_tables(group)
    size = default_codec(kind).size
    assert loss.columns == ["fp32", size or "one size"]
    assert bool(drawn(compression(group, published=False)).panels) == bool(re.search(r" (bits?|%)$", size))


def test_columns_of_compression_are_in_the_order_of_their_sizes() -> None:
    sizes = ["fp32", "1 bit", "1.6 bits", "8 bits", "16 bits", "5 %", "10 %", "one size", "rank 1", "rank 16"]
    assert sorted(sizes, key=_by_size) == sizes


def test_streaming_stands_beside_one_fragment(tmp_path: Path) -> None:
    group = group_of(
        tmp_path,
        (muloco(workers=8), 2.5),
        (base.streaming(muloco(workers=8), 3), 2.525),
        (base.streaming(muloco(workers=8), 3, delay=2), 2.55),
    )
    loss, over = streaming_tables(group)
    assert loss.columns == ["one fragment", "J=3", "J=3, tau=2"]
    assert values(over) == {
        ("416M", "MuLoCo", "8", "", "J=3"): pytest.approx(1.0),
        ("416M", "MuLoCo", "8", "", "J=3, tau=2"): pytest.approx(2.0),
    }
    assert theirs(loss) == {("416M", "MuLoCo", "8", "", "J=3"): 2.65}


def test_zero_shot_accuracies_after_the_last_step(tmp_path: Path) -> None:
    """Two of the paper's tasks: no mean to compare with the paper's. acc_norm counts before acc; a group's subtasks do
    not count beside it; evaluations of earlier steps, of some documents or with shots are left out and said so."""
    root = finished(tmp_path / "run", muloco(), 2.6)
    run, _ = read_run(root)
    assert run is not None
    writer = MetricsWriter(RunFolder(root).metrics(0), worker=0, attempt=1)
    for step, accuracy in ((30, 0.9), (run.steps, 0.5)):
        writer.write(step, {"event": "evaluation", "evaluation/piqa/acc": accuracy, "evaluation/mean": accuracy})
    writer.close()
    mmlu = {"mmlu": {"acc,none": 0.25}, "mmlu_anatomy": {"acc,none": 0.9}}
    hellaswag = {"hellaswag": {"acc,none": 0.1, "acc_norm,none": 0.3, "acc_stderr,none": 0.01, "alias": "hellaswag"}}
    evaluations = RunFolder(root).evaluations
    write_json(evaluations / f"step-{run.steps}" / "a.json", {"results": mmlu | hellaswag, "config": {"limit": None}})
    write_json(evaluations / f"step-{run.steps}" / "b.json", {"results": {"piqa": {}}, "config": {"limit": 5}})
    write_json(evaluations / f"step-{run.steps}" / "c.json", {"results": {}, "n-shot": {"piqa": 5}})
    write_json(evaluations / "step-30" / "d.json", {"results": mmlu})
    (evaluations / f"step-{run.steps}" / "e.json").write_text("{")
    run, remarks = read_run(root)
    assert run is not None
    assert run.zero_shot == {"mmlu": 25.0, "hellaswag": 30.0, "piqa": 50.0}
    assert [remark.reason.split(" ")[:3] for remark in remarks] == [
        ["evaluations/step-30/d.json", "is", "of"],
        [f"evaluations/step-{run.steps}/b.json", "is", "of"],
        [f"evaluations/step-{run.steps}/c.json", "is", "not"],
        [f"evaluations/step-{run.steps}/e.json", "is", "not"],
    ]
    points, _ = pool([run])
    table = zero_shot(groups(points)[0])
    assert table.columns == ["mmlu", "hellaswag", "piqa", "mean"]
    assert values(table)["416M", "MuLoCo", "2", "", "mean"] == pytest.approx(35.0)


def test_the_settings_of_the_best_runs_are_listed(tmp_path: Path) -> None:
    group = group_of(tmp_path, (muloco(lr=0.01), 2.7), (muloco(lr=0.02), 2.6), (data_parallel(lr=0.03), 2.5))
    listing = choices(group)
    lines = list(listing.long())
    assert [line["method"] for line in lines] == ["DP Muon", "MuLoCo"]
    assert lines[0]["inner lr"] == "0.03" and lines[0]["outer lr"] == "" and lines[0]["best of"] == "the only one"
    assert (lines[1]["inner lr"], lines[1]["outer lr"], lines[1]["outer momentum"]) == ("0.02", "0.9", "0.8")
    assert "optimizer.lr 0.02 of 0.01, 0.02" in lines[1]["best of"]


def test_hours_by_bandwidth_are_those_of_the_run_and_of_what_it_sent(tmp_path: Path) -> None:
    """60 steps of half a second, two syncs in which 5 GB leave a worker: at 10 Gbit/s 30 s + 8 s. Data-parallel: 16
    bits for each of 416,862,208 parameters in every step: 0.667 s."""
    config = {"training__steps": 60, "training__global_batch_size": 512}
    group = group_of(
        tmp_path, (muloco(**config), 2.6), (data_parallel(**config), 2.5), bytes_sent_per_worker=10_000_000_000
    )
    hours = values(wall_clock_table(group))
    assert hours["416M", "MuLoCo", "2", "", "10"] * 3600 == pytest.approx(30 + 8)
    assert hours["416M", "DP Muon", "", "", "10"] * 3600 == pytest.approx(60 * (0.5 + 416_862_208 * 16 / 10e9))
    assert hours["416M", "MuLoCo", "2", "", "measured"] == 2.0


def test_short_runs_are_timed_in_a_unit_in_which_they_can_be_read(tmp_path: Path) -> None:
    """90 s at most, so in minutes: 60 steps of half a second on a link that is never waited for. The CSV has hours."""
    config = {"training__steps": 60, "training__global_batch_size": 512}
    group = group_of(tmp_path, (muloco(**config), 2.6), bytes_sent_per_worker=0, wall_seconds=90)
    table = wall_clock_table(group)
    assert table.title == "Wall clock in minutes by Gbit/s of each worker's link"
    (row,) = table.wide().rows
    assert {"1.5", "0.5"} == set(row[-7:])
    assert values(table)["416M", "MuLoCo", "2", "", "measured"] * 3600 == pytest.approx(90)
    (panel,) = wall_clock_figure(group, published_too=False).panels
    assert panel.ylabel == "wall-clock time (seconds)" and panel.series[0].y[0] == pytest.approx(30)


def test_the_model_meets_the_published_hours() -> None:
    """Within 4 %, which is the error of reading them off the figure."""
    for variant, modelled in published_times():
        for width, hours in published.WALL_CLOCK[variant.name].items():
            assert modelled(width) == pytest.approx(hours, rel=0.04), (variant.name, width)


def test_without_runs_the_tables_are_the_papers() -> None:
    table = replace(final_loss(NOTHING), everything=True)
    assert table.measured == {}
    assert theirs(table)["", "DiLoCo", "16", "", "15B"] == 1.906
    assert len(theirs(table)) == 6 * 6 + 6 * 5
    assert len(theirs(replace(batches(NOTHING), everything=True))) == 66
    assert len(theirs(replace(compression_tables(NOTHING)[0], everything=True))) == 2 * (4 * 4 + 2 * 8)
    assert final_loss(NOTHING).rows == []


def test_figures_have_the_papers_points_only_where_they_are_asked_for(tmp_path: Path) -> None:
    """And K along a line: 4 % over DP Muon with two workers, 8 % with four. What was compressed is there with one K
    alone and is left to its own figure."""
    group = group_of(
        tmp_path,
        (muloco(workers=2), 2.6),
        (muloco(workers=4), 2.7),
        (data_parallel(), 2.5),
        (base.compressed(muloco(workers=4), "linear", bits=4), 2.8),
    )
    plain, with_theirs = (drawn(worker_scaling(group, published=published)) for published in (False, True))
    ((line,),) = (panel.series for panel in plain.panels)
    assert (line.label, line.x) == ("MuLoCo", [2.0, 4.0]) and line.y == pytest.approx([4.0, 8.0])
    ours, muloco_theirs, diloco_theirs = with_theirs.panels[0].series
    assert [series.published for series in (ours, muloco_theirs, diloco_theirs)] == [False, True, True]
    assert list(muloco_theirs.y) == [-0.10, 0.032, 0.39, 0.708, 2.752]
    squeezed = drawn(compression(group, published=False))
    points, level = squeezed.panels[0].series
    assert (points.x, points.y) == ([4.0], [2.8]) and (level.label, level.y) == ("MuLoCo K=4, fp32", [2.7])
    assert drawn(loss_against_batch(group, published=True)).panels == []


def test_loss_curves_are_the_mean_of_the_seeds_by_tokens(tmp_path: Path) -> None:
    """Each run begins 2 above its end; the untrained model's loss is not drawn."""
    group = group_of(tmp_path, (muloco(), 2.6), (muloco(run__seed=1), 2.8))
    figure = loss_curves(group)
    (line,) = figure.panels[0].series
    assert list(line.x) == [8160 * 512 * 2048] and list(line.y) == pytest.approx([2.7])
