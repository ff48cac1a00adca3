"""Run folders: the records of finished runs, the problems of the others, and how runs are pooled."""

import json
import re
import shutil
from pathlib import Path

import pytest

from muloco.analysis.records.method import baseline, variant
from muloco.analysis.records.pooling import Choice, Point, best, groups, pool
from muloco.analysis.records.runs import Run, find_folders, read_run
from muloco.recipes import base
from muloco.resolve import resolve
from muloco.runs.folder import MetricsWriter, RunFolder, write_json
from muloco.settings.config import Config

from .runs_on_disk import data_parallel, diloco, finished, muloco, written


def runs_of(*folders: Path) -> list[Run]:
    runs = []
    for folder in folders:
        run, problems = read_run(folder)
        assert run is not None, problems
        runs.append(run)
    return runs


def local_sgd() -> Config:
    return muloco(fault_tolerance__semi_sync_method="local_sgd", outer_optimizer__lr=1.0, outer_optimizer__momentum=0.0)


def with_roles() -> Config:
    config = muloco()
    config.optimizer.head.lr_factor = 0.5
    return config


def with_matrices(name: str, rule: str) -> Config:
    config = muloco(optimizer__name=name)
    config.optimizer.matrix.rule = rule
    return config


@pytest.mark.parametrize(
    ("config", "label", "own"),
    [
        (data_parallel("Muon"), "DP Muon", "DP Muon"),
        (data_parallel("AdamW"), "DP AdamW", "DP AdamW"),
        (muloco(workers=8), "MuLoCo K=8", "DP Muon"),
        (diloco(workers=1), "DiLoCo K=1", "DP AdamW"),
        (base.gpa(base.paper("416M"), lr=0.001), "GPA K=1", "DP AdamW"),
        (local_sgd(), "local SGD (Muon) K=2", "DP Muon"),
        (with_roles(), "DiLoCo (Muon, other roles) K=2", "DP Muon, other roles"),
        (with_matrices("Muon", "normuon"), "DiLoCo (NorMuon) K=2", "DP NorMuon"),
        (with_matrices("AdamW", "muon"), "MuLoCo K=2", "DP Muon"),
        (muloco(outer_optimizer__class_name="adamw"), "MuLoCo (outer adamw) K=2", "DP Muon"),
        (muloco(fault_tolerance__sync_steps=60), "MuLoCo K=2, H=60", "DP Muon"),
        (base.streaming(muloco(), 3, delay=5), "MuLoCo K=2, J=3, tau=5", "DP Muon"),
        (
            base.compressed(muloco(), "linear", bits=4, granularity="row"),
            "MuLoCo K=2, linear 4 bits, per row, error feedback",
            "DP Muon",
        ),
        (
            base.compressed(muloco(), "topk", fraction=0.025, error_feedback=False, reduce="gather"),
            "MuLoCo K=2, topk 2.5 %, gathered",
            "DP Muon",
        ),
    ],
)
def test_a_config_is_called_by_method_workers_and_what_is_unusual(config: Config, label: str, own: str) -> None:
    described = variant(resolve(config))
    assert described.label == label
    assert baseline(described.method) == own


def test_a_finished_run_is_read(tmp_path: Path) -> None:
    (run,) = runs_of(finished(tmp_path / "a", muloco("416M", 2), 2.75))
    assert (run.variant.label, run.scale, run.seed, run.loss) == ("MuLoCo K=2", "416M", 42, 2.75)
    assert (run.batch, run.steps, run.tokens) == (512 * 2048, 8160, 8160 * 512 * 2048)
    assert run.compute == pytest.approx(6 * 416_862_208 * 8_556_380_160)
    assert run.curve == ((0, 4.75), (8160, 2.75))
    assert run.step_seconds == pytest.approx(0.5)


def test_what_is_no_finished_run_is_listed_with_the_reason(tmp_path: Path) -> None:
    started = written(tmp_path / "started", muloco())
    writer = MetricsWriter(RunFolder(tmp_path / "started").metrics(1), worker=1, attempt=1)
    writer.write(77, {"loss": 3.0})
    writer.close()
    finished(tmp_path / "cut", muloco(), 3.0, steps=100)
    finished(tmp_path / "no_loss", muloco(), 3.0)
    summary = json.loads((tmp_path / "no_loss" / "summary.json").read_text())
    del summary["validation_loss"]
    write_json(tmp_path / "no_loss" / "summary.json", summary)
    finished(tmp_path / "torn", muloco(), 3.0)
    (tmp_path / "torn" / "config.json").write_text('{"resolved": ')
    finished(tmp_path / "newer", muloco(), 3.0)
    config = json.loads((tmp_path / "newer" / "config.json").read_text())
    config["resolved"]["optimizer"]["warp"] = 1
    write_json(tmp_path / "newer" / "config.json", config)
    finished(tmp_path / "flavor", muloco(), 3.0)
    config["resolved"]["optimizer"].pop("warp")
    config["resolved"]["model"]["flavor"] = "417M"
    write_json(tmp_path / "flavor" / "config.json", config)
    finished(tmp_path / "shape", muloco(), 3.0)
    write_json(tmp_path / "shape" / "config.json", {"resolved": {"model": [1]}})
    finished(tmp_path / "headless", muloco(), 3.0)
    (tmp_path / "headless" / "config.json").unlink()
    (tmp_path / "notes").mkdir()

    folders, problems = find_folders([tmp_path, tmp_path / "cut", tmp_path / "nowhere"])
    assert sorted(folder.name for folder in folders) == sorted(
        ["started", "cut", "no_loss", "torn", "newer", "flavor", "shape", "headless"]
    )
    assert [(Path(problem.folder).name, problem.kind, problem.reason) for problem in problems] == [
        ("notes", "not a run", "no config.json"),
        ("nowhere", "not a run", "no such folder"),
    ]
    said = {}
    for folder in folders:
        run, (problem,) = read_run(folder)
        assert run is None
        said[folder.name] = (problem.kind, problem.reason)
    assert said["started"] == ("unfinished", f"no summary.json; metrics reach step 77 of {started.training.steps}")
    assert said["cut"] == ("unfinished", "its summary is of step 100, its config asks for 8160")
    assert said["no_loss"] == ("broken", "'validation_loss' is missing in its summary or metrics")
    assert said["torn"][0] == "broken" and said["torn"][1].startswith("config.json is not JSON")
    assert said["newer"][0] == "broken" and "unknown field optimizer.warp" in said["newer"][1]
    assert said["flavor"][0] == "broken" and "there is no flavor '417M'" in said["flavor"][1]
    assert said["shape"][0] == "broken"
    assert said["headless"] == ("broken", "no config.json")


def test_a_run_without_a_summary_is_finished_once_its_last_step_is_validated(tmp_path: Path) -> None:
    """As where its workers were started by hand."""
    kinds = []
    for name, lines in {
        "short": [(8159, {"loss": 3.0})],
        "made": [(8160, {"loss": 3.0})],
        "finished": [(8160, {"loss": 3.0}), (8160, {"validation_loss": 3.1})],
    }.items():
        written(tmp_path / name, muloco())
        writer = MetricsWriter(RunFolder(tmp_path / name).metrics(0), worker=0, attempt=1)
        for step, values in lines:
            writer.write(step, values)
        writer.close()
        run, (problem,) = read_run(tmp_path / name)
        assert run is None
        kinds.append((problem.kind, re.split("[;:]", problem.reason)[0]))
    assert kinds == [
        ("unfinished", "no summary.json"),
        ("unfinished", "all 8160 steps are made, but the last one is not validated"),
        ("without a summary", "all 8160 steps are made"),
    ]


def test_runs_in_a_run_folder_are_found(tmp_path: Path) -> None:
    """As where one without a name was written beside others. A tokenizer's config.json makes no run."""
    finished(tmp_path / "outputs", muloco(), 3.0)
    finished(tmp_path / "outputs" / "named", muloco(), 3.0)
    write_json(tmp_path / "outputs" / "tokenizer" / "config.json", {})
    folders, problems = find_folders([tmp_path / "outputs"])
    assert [folder.name for folder in folders] == ["outputs", "named"] and problems == []


def test_names_are_shown_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs" / "two\nlines").mkdir(parents=True)
    written(tmp_path / "runs" / "begun", muloco())
    _, (problem,) = find_folders([tmp_path / "runs"])
    assert problem.folder == rf"{tmp_path}/runs/two\nlines"


def test_a_damaged_line_of_metrics_is_named_and_the_run_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finished(tmp_path / "run", muloco(), 3.0)
    with RunFolder(tmp_path / "run").metrics(0).open("a") as file:
        file.write("{oops}\n")
    run, problems = read_run(tmp_path / "run")
    assert run is not None and run.loss == 3.0 and problems == []
    assert "line 5: not a line of metrics" in caplog.text


def test_a_run_that_has_diverged_is_never_the_best(tmp_path: Path) -> None:
    good = finished(tmp_path / "good", muloco(lr=0.02), 3.0)
    run, (problem,) = read_run(finished(tmp_path / "bad", muloco(lr=0.04), float("nan")))
    assert problem.kind == "diverged" and run is not None
    points, _ = pool([run, *runs_of(good)])
    choice = best(points)
    assert choice is not None and choice.point.first.folder == good
    assert best([point for point in points if point.first.folder != good]) is None


def test_missing_metrics_are_remarked(tmp_path: Path) -> None:
    root = finished(tmp_path / "a", muloco(), 3.0)
    second = RunFolder(root).metrics(1)
    second.unlink()
    run, (remark,) = read_run(root)
    assert run is not None and (remark.kind, remark.reason) == ("remark", f"{second} is missing")


def test_lost_steps_are_remarked(tmp_path: Path) -> None:
    run, (remark,) = read_run(finished(tmp_path / "a", muloco(), 3.0, lost_steps=60))
    assert run is not None
    assert (remark.kind, remark.reason) == ("remark", "lost 60 inner steps of workers")


def test_runs_that_differ_in_their_seed_alone_are_pooled(tmp_path: Path) -> None:
    """Mean of 3.0, 3.2 and 3.1 is 3.1, their sample standard deviation is 0.1. What says where and how a run was made
    (its name, checkpoints, how often metrics are logged) makes no difference; the learning rate does, and so do the
    weights that it started from."""
    started = finished(tmp_path / "started", muloco(run__seed=3), 8.0)
    config = json.loads((started / "config.json").read_text())
    config["resolved"]["checkpoint"]["initial"] = "weights"
    write_json(started / "config.json", config)
    one = runs_of(
        finished(tmp_path / "a", muloco(), 3.0),
        finished(
            tmp_path / "b", muloco(run__seed=1, metrics__log_freq=5, fault_tolerance__transport="in_process"), 3.2
        ),
        finished(tmp_path / "c", muloco(run__seed=2, checkpoint__interval=7), 3.1),
        finished(tmp_path / "d", muloco(lr=0.04), 9.0),
        started,
    )
    points, problems = pool(one)
    assert problems == []
    assert [len(point.runs) for point in points] == [3, 1, 1]
    assert points[0].loss == pytest.approx(3.1)
    assert Choice(points[0], points).measured.spread == pytest.approx(0.1)
    assert Choice(points[1], points).measured.spread is None


def test_a_seed_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    first = finished(tmp_path / "a", muloco(), 3.0)
    shutil.copytree(first, tmp_path / "copy")
    points, (problem,) = pool(runs_of(first, tmp_path / "copy"))
    assert [len(point.runs) for point in points] == [1]
    assert problem.kind == "repeated" and str(first) in problem.reason


def test_corpora_and_token_budgets_are_never_in_one_group(tmp_path: Path) -> None:
    (tmp_path / "books.jsonl").write_text('{"text": "a"}\n')
    books = str(tmp_path / "books.jsonl")
    made = [
        finished(tmp_path / "a", muloco(), 3.0),
        finished(tmp_path / "b", muloco(data__corpus=books), 3.1),
        finished(tmp_path / "c", muloco(validation__sequences=64), 3.2),
        finished(tmp_path / "d", muloco(training__tokens=2**30), 3.3),
        finished(tmp_path / "e", muloco(training__tokens=2**30 + 2**27), 3.4),
        finished(tmp_path / "f", data_parallel(), 3.5),
        finished(tmp_path / "g", muloco(), 3.6, corpus_sha256=["0123456789", "ab"]),
        finished(tmp_path / "h", muloco(), 3.7, corpus_sha256=["1123456789", "ab"]),
        finished(tmp_path / "i", muloco(data__predict_bos=False), 3.8),
    ]
    points, _ = pool(runs_of(*made))
    pooled = groups(points)
    losses = sorted(sorted(point.loss for point in group.points) for group in pooled)
    assert losses == [[3.0, 3.5], [3.1], [3.2], [3.3], [3.4], [3.6], [3.7], [3.8]]
    assert len({group.title for group in pooled}) == 8
    titles = {group.points[0].loss: group.title for group in pooled}
    assert titles[3.1].startswith(f"corpus {books}, ")
    assert titles[3.6].startswith("corpus embedded (sha256 01234567, ab), ")
    assert "about 20 tokens a parameter (416M: 8,556,380,160)" in titles[3.0]


def test_batches_that_do_not_divide_the_budget_leave_it_the_same(tmp_path: Path) -> None:
    """1000 sequences leave 578,420 tokens of 8,556,380,160 over, less than a step."""
    whole, cut = (
        finished(tmp_path / str(batch), muloco(training__global_batch_size=batch), 3.0) for batch in (512, 1000)
    )
    points, _ = pool(runs_of(whole, cut))
    (group,) = groups(points)
    assert len(group.points) == 2


def test_scales_of_the_same_tokens_a_parameter_are_one_group(tmp_path: Path) -> None:
    made = [finished(tmp_path / scale, muloco(scale), 3.0) for scale in ("150M", "416M", "914M")]
    made.append(finished(tmp_path / "longer", muloco("150M", training__tokens=2**33), 2.9))
    points, _ = pool(runs_of(*made))
    assert sorted(group.scales for group in groups(points)) == [["150M"], ["150M", "416M", "914M"]]


def point_at(tmp_path: Path, lr: float, loss: float, **changes: int) -> Point:
    folder = tmp_path / f"{lr}-{sorted(changes.items())}"
    (point,), _ = pool(runs_of(finished(folder, muloco(lr=lr, **changes), loss)))
    return point


def test_the_best_of_a_grid_says_what_it_was_chosen_from(tmp_path: Path) -> None:
    low, middle, high = (point_at(tmp_path, lr, loss) for lr, loss in ((0.01, 3.2), (0.02, 3.0), (0.04, 3.1)))
    larger = point_at(tmp_path, 0.08, 2.9, training__global_batch_size=1024)
    assert best([low, middle, high]) == Choice(middle, [low, middle, high])
    assert Choice(middle, [low, middle, high]).note == "optimizer.lr 0.02 of 0.01, 0.02, 0.04"
    assert Choice(middle, [low, middle]).note.endswith(
        "inner lr at the upper edge of its grid: the best may lie beyond"
    )
    assert Choice(middle, [high, middle]).note.endswith(
        "inner lr at the lower edge of its grid: the best may lie beyond"
    )
    assert Choice(middle, [middle]).note == "the only one"
    of_all = Choice(larger, [low, middle, larger]).note
    assert "optimizer.lr 0.08 of 0.01, 0.02, 0.08" in of_all
    assert "training.global_batch_size 1024 of 512, 1024" in of_all and of_all.endswith("one inner lr")
