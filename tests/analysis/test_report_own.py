"""The workers' own losses, which are what the paper publishes, beside those of the anchor."""

import csv
from pathlib import Path

import pytest

from muloco.analysis.records.runs import read_run
from muloco.analysis.report.contents import Report, Section, build
from muloco.cli import main

from .runs_on_disk import data_parallel, diloco, finished, muloco


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At the first rate the anchor is better, at the second the workers' own weights; DiLoCo has not logged them."""
    root = tmp_path_factory.mktemp("own")
    finished(root / "runs" / "dp", data_parallel(), 2.5)
    finished(root / "runs" / "a", muloco(lr=0.02), 2.6, local_validation_loss=2.75)
    finished(root / "runs" / "b", muloco(lr=0.04), 2.65, local_validation_loss=2.7)
    finished(root / "runs" / "c", muloco(workers=4), 2.7, local_validation_loss=float("nan"))
    finished(root / "runs" / "old", diloco(), 2.8)
    assert main(["report", str(root / "runs"), "--out", str(root / "out")]) == 0
    return root


def section(root: Path, *, published: bool = False) -> Section:
    runs = [run for name in ("dp", "a", "b", "c", "old") if (run := read_run(root / "runs" / name)[0]) is not None]
    report: Report = build(runs, [], published=published)
    return report.sections[0]


def test_the_published_loss_stands_beside_the_one_that_it_can_be_compared_with(reported: Path) -> None:
    tables = {table.name: table.wide() for table in section(reported).tables}
    final = tables["final_loss"]
    assert final.headers == ["method", "K", "416M", "416M, workers' own"]
    assert [tuple(row) for row in final.cells()] == [
        (("DP Muon", ""), ("", ""), ("2.5000", ""), ("2.5000", "2.6410")),
        (("MuLoCo", ""), ("2", ""), ("2.6000", ""), ("2.7000", "2.6416")),
        (("MuLoCo", ""), ("4", ""), ("2.7000", "2.6510"), ("", "")),
        (("DiLoCo", ""), ("2", ""), ("2.8000", "2.6682"), ("", "")),
    ]
    over = tables["over_dp"]
    assert [row[-2:] for row in over.cells()] == [
        [("+4.00", ""), ("+8.00", "+0.03")],
        [("+8.00", "+0.39"), ("", "")],
        [("no DP AdamW", "-0.50"), ("", "")],
    ]
    chosen = {tuple(row[1:4]): row[-2] for row in tables["chosen"].rows}
    assert chosen["MuLoCo", "2", ""] == "2.7500" and chosen["DiLoCo", "2", ""] == ""


def test_the_csv_has_a_column_of_own_losses(reported: Path) -> None:
    with (reported / "out" / "tables" / "final_loss.csv").open(newline="") as file:
        lines = {(line["method"], line["K"]): line for line in csv.DictReader(file)}
    line = lines["MuLoCo", "2"]
    assert (line["measured"], line["workers_own"], line["published"]) == ("2.6", "2.7", "2.6416")
    assert lines["DiLoCo", "2"]["workers_own"] == ""


def test_the_papers_points_are_drawn_beside_own_losses(reported: Path) -> None:
    """Where there are any; DiLoCo's has the anchor's alone."""
    for published, expected in ((False, 4.0), (True, 8.0)):
        figures = {figure.name: figure for figure in section(reported, published=published).figures}
        panel = next(panel for panel in figures["worker_scaling"].panels if panel.title == "416M")
        (line,) = [series for series in panel.series if series.label == "MuLoCo" and not series.published]
        assert line.y[list(line.x).index(2)] == pytest.approx(expected)
        assert ("workers' own weights" in figures["worker_scaling"].caption) == published


def test_claims_are_decided_by_both(tmp_path: Path) -> None:
    """MuLoCo's anchor is 4 % below DiLoCo's, its workers' own weights are 4 % above."""
    for seed in (1, 2):
        finished(tmp_path / f"muloco{seed}", muloco(run__seed=seed), 2.4, local_validation_loss=2.6)
        finished(tmp_path / f"diloco{seed}", diloco(run__seed=seed), 2.5, local_validation_loss=2.5)
    runs = [run for path in tmp_path.iterdir() if (run := read_run(path)[0]) is not None]
    (only,) = build(runs, [], published=False).sections
    verdicts = {
        table.name: [row[2] for row in table.wide().rows]
        for table in only.tables
        if table.name in ("claims", "claims_own")
    }
    assert verdicts == {"claims": ["holds"], "claims_own": ["does not hold"]}


def test_without_own_losses_there_are_no_columns_for_them(tmp_path: Path) -> None:
    runs = [read_run(finished(tmp_path / "old", diloco(), 2.8))[0]]
    (only,) = build([run for run in runs if run], [], published=False).sections
    assert not [header for table in only.tables for header in table.wide().headers[:-2] if "own" in header]
    assert "claims_own" not in {table.name for table in only.tables}
