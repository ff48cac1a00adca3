"""What a summary counts."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from muloco.launch import summary
from muloco.launch.summary import (
    how_it_stopped,
    lost_steps,
    own_loss,
    seconds_before,
    sum_up_by_hand,
    summarize,
    summary_table,
)
from muloco.resolve import resolve
from muloco.runs.folder import MetricsWriter, RunFolder, read_json, write_json
from muloco.settings.config import Config
from muloco.settings.load import load_config

from ..run_on_disk import save_checkpoint


def line(worker: int, step: int, event: str) -> dict[str, Any]:
    return {"worker": worker, "step": step, "event": event}


def test_lost_steps_are_those_that_no_sync_has_taken_in() -> None:
    """Worker 0 is always there. Worker 1 is lost behind step 10, takes up a checkpoint of step 20, joins at 30. Worker
    2 is lost behind step 20 for good."""
    lines = [line(0, step, "sync") for step in (10, 20, 30, 40)]
    lines += [line(1, 10, "sync"), line(1, 20, "join"), line(1, 30, "join"), line(1, 40, "sync")]
    lines += [line(2, 10, "sync"), line(2, 20, "sync"), {"worker": 2, "step": 25, "loss": 1.0}]
    assert lost_steps(lines, workers=3, steps=40) == 20 + 20


def test_nothing_is_lost_where_nobody_was() -> None:
    lines = [line(worker, step, "sync") for worker in (0, 1) for step in (5, 10, 12)]
    assert lost_steps(lines, workers=2, steps=12) == 0


def test_a_worker_that_never_came_has_lost_all() -> None:
    assert lost_steps([line(0, 10, "sync")], workers=2, steps=10) == 10


def test_own_loss_is_the_mean_over_those_that_synced_after_the_step() -> None:
    """Step 15 is in mid-window, and worker 2 was left behind at step 30."""
    losses = {0: {15: 9.0, 30: 3.0, 45: 9.0}, 1: {15: 9.0, 30: 4.0, 45: 9.0}, 2: {15: 9.0, 30: 8.0}}
    own = [
        {"worker": worker, "step": step, "local_validation_loss": loss}
        for worker, by_step in losses.items()
        for step, loss in by_step.items()
    ]
    lines = [*own, line(0, 30, "sync"), line(1, 30, "sync"), line(2, 30, "join")]
    assert own_loss(lines, step=30) == 3.5
    assert own_loss(lines, step=45) is None, "nothing was synced"
    assert own_loss([], step=30) is None


def test_a_last_step_that_was_not_logged_is_not_lost(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics(0).parent.mkdir(parents=True)
    shared = {"schema": 1, "attempt": 1, "time": 0.0, "worker": 0}
    sent = {"fragment": 0, "bytes_sent": 8, "bytes_ring": 8}
    lines = [
        {"step": 10, "loss": 2.0, "tokens": 640, "tokens_per_second": 64.0},
        {"step": 12, "event": "sync", **sent},
        {"step": 0, "validation_loss": 3.0},
        {"step": 12, "validation_loss": 2.0},
    ]
    folder.metrics(0).write_text("".join(json.dumps(shared | one) + "\n" for one in lines))
    config = resolve(load_config("config/laptop/muloco.py", ["--fault_tolerance.group_size", "1"]))
    assert summarize(config, folder, corpus=["5e"], wall_seconds=1.0, restarts=0)["lost_steps"] == 0


@pytest.mark.parametrize(
    ("reached", "kept", "said"),
    [
        ([], None, "stopped before the first step; nothing was saved; this starts it again from the beginning"),
        ([(1, 7)], None, "stopped at step 7 of 200; nothing was saved; this starts it again from the beginning"),
        ([(1, 124), (1, 123)], 100, "stopped at step 124 of 200; the checkpoint of step 100 is kept; resume with"),
        ([(1, 124), (2, 103)], 100, "stopped at step 103 of 200; the checkpoint of step 100 is kept; resume with"),
    ],
)
def test_how_a_run_stopped(tmp_path: Path, reached: list[tuple[int, int]], kept: int | None, said: str) -> None:
    folder = RunFolder(tmp_path)
    for attempt, step in reached:
        writer = MetricsWriter(folder.metrics(0), worker=0, attempt=attempt)
        writer.write(step, {"event": "state", "state": "training"})
        writer.close()
    if kept is not None:
        save_checkpoint(folder, kept)
    assert how_it_stopped(folder, steps=200) == f"{said}: muloco train {folder.config} --resume"


def test_a_run_that_stops_while_it_is_resumed_says_how_far_it_had_come(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for attempt, step, values in ((1, 25, {"loss": 5.0}), (2, 0, {"event": "state", "state": "loading a checkpoint"})):
        writer = MetricsWriter(folder.metrics(0), worker=0, attempt=attempt)
        writer.write(step, values)
        writer.close()
    save_checkpoint(folder, 20)
    said = "stopped at step 25 of 200; the checkpoint of step 20 is kept; resume with"
    assert how_it_stopped(folder, steps=200) == f"{said}: muloco train {folder.config} --resume"


def test_earlier_starts_took_the_time_between_their_lines(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics(0).parent.mkdir()
    for worker, lines in {
        0: [(1, 10.0), (1, 14.5), (2, 100.0), (2, 101.0)],
        1: [(1, 12.0), (1, 16.0), (3, 500.0)],
    }.items():
        shared = {"step": 1, "worker": worker}
        text = [json.dumps({**shared, "attempt": attempt, "time": time}) for attempt, time in lines]
        folder.metrics(worker).write_text("\n".join(text) + "\n")
    assert [seconds_before(folder, attempt) for attempt in (1, 2, 3)] == [0, 6.0, 7.0]


def test_of_workers_started_by_hand_the_last_one_has_seen_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker 1 writes its last lines while worker 0 sums up."""
    words = ["--run.name", "a", "--run.outputs", str(tmp_path), "--training.steps", "12"]
    config, folder = resolve(load_config("config/laptop/muloco.py", words)), RunFolder(tmp_path / "a")
    write_json(folder.config, {"data": {"text": ["5e"]}})

    def work(worker: int, steps: tuple[int, ...]) -> None:
        writer = MetricsWriter(folder.metrics(worker), worker=worker, attempt=1)
        for step in steps:
            writer.write(step, {"validation_loss": 3.0})
            writer.write(step, {"loss": 2.0, "tokens": 64 * step, "tokens_per_second": 64.0})
        writer.close()

    work(0, (6,))
    work(1, (6,))
    sum_up_by_hand(config)
    assert not folder.summary.exists(), "it was stopped before its end"
    work(0, (12,))
    late = iter([1])

    def write(path: Path, value: Any) -> None:
        for worker in late:
            work(worker, (12,))
        write_json(path, value)

    monkeypatch.setattr(summary, "write_json", write)
    sum_up_by_hand(config)
    found = read_json(folder.summary)
    assert (found["steps"], found["tokens"], found["corpus_sha256"]) == (12, 2 * 64 * 12, ["5e"])


def two_workers(folder: RunFolder) -> Config:
    """Metrics of a whole run of two workers and 12 steps."""
    for worker in (0, 1):
        writer = MetricsWriter(folder.metrics(worker), worker=worker, attempt=1)
        writer.write(0, {"validation_loss": 4.0})
        writer.write(12, {"loss": 2.0, "tokens": 768, "tokens_per_second": 64.0})
        writer.write(12, {"validation_loss": 3.0})
        writer.close()
    return resolve(load_config("config/laptop/muloco.py", ["--training.steps", "12"]))


@pytest.mark.parametrize("damage", ["removed", "emptied", "no start"])
def test_figures_that_the_metrics_do_not_hold_are_unknown(tmp_path: Path, damage: str) -> None:
    folder = RunFolder(tmp_path)
    config = two_workers(folder)
    second = folder.metrics(1)
    whole = summarize(config, folder, corpus=[], wall_seconds=1.0, restarts=0)
    assert (whole["tokens"], whole["tokens_per_second"], whole["validation_loss_before"]) == (1536, 128.0, 4.0)
    assert whole["missing_metrics"] == []
    unknown = ["tokens", "tokens_per_second", "training_loss"]
    if damage == "removed":
        second.unlink()
        said = f"{second} is missing"
    elif damage == "emptied":
        second.write_text("")
        said = f"{second} has no training line"
    else:
        unknown, said = ["validation_loss_before"], f"no file in {tmp_path}/metrics has the held-out loss of step 0"
        for path in folder.metrics_files().values():
            path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    found = summarize(config, folder, corpus=[], wall_seconds=1.0, restarts=0)
    assert found["missing_metrics"] == [said]
    assert [name for name, value in found.items() if value is None and whole[name] is not None] == unknown
    console = Console(file=io.StringIO(), width=400)
    console.print(summary_table(found, config=config))
    assert said in console.file.getvalue()


@pytest.mark.parametrize(
    "values",
    [
        {"loss": 1.0},
        {"loss": 1.0, "tokens": 768, "tokens_per_second": 0.0},
        {"event": "sync", "fragment": 0, "participants": 2, "bytes_sent": 8, "seconds_waited": 0.1, "digest": "a"},
        {"event": "lines_lost"},
        {"event": "resume"},
    ],
)
def test_lines_that_lack_values_do_not_count(tmp_path: Path, values: dict[str, Any]) -> None:
    folder = RunFolder(tmp_path)
    config = two_workers(folder)
    whole = summarize(config, folder, corpus=[], wall_seconds=1.0, restarts=0)
    writer = MetricsWriter(folder.metrics(0), worker=0, attempt=1)
    writer.write(12, values)
    writer.close()
    assert summarize(config, folder, corpus=[], wall_seconds=1.0, restarts=0) == whole


def test_a_worker_alone_has_no_traffic_to_show(tmp_path: Path) -> None:
    config = two_workers(RunFolder(tmp_path))
    found = summarize(config, RunFolder(tmp_path), corpus=[], wall_seconds=1.0, restarts=0)
    for workers, shown in ((2, True), (1, False)):
        console = Console(file=io.StringIO(), width=100)
        console.print(summary_table({**found, "workers": workers}, config=config))
        assert ("sent by a worker" in console.file.getvalue()) == shown
