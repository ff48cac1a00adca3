"""What happens when a run does not go as planned."""

import json
import os
import re
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from muloco.runs.folder import RunFolder, read_lines

from .runs import Run, command, train
from .waiting import wait_for_end, wait_until

pytestmark = pytest.mark.integration

MULOCO = "config/laptop/muloco.py"
LONG = {"training__steps": 100_000, "fault_tolerance__sync_steps": 4, "checkpoint__interval": 3}


def start_and_wait_for_syncs(outputs: Path, name: str, **overrides: Any) -> tuple[subprocess.Popen, RunFolder]:
    """Its output goes to a file: nobody reads a pipe meanwhile, and a full one would stop it."""
    with (outputs / f"{name}.out").open("w") as output:
        process = subprocess.Popen(
            command(outputs, name, MULOCO, **{**LONG, **overrides}), stdout=output, stderr=subprocess.STDOUT
        )
    folder = RunFolder(outputs / name)
    wait_until(lambda: events(folder, "sync", worker=1), "worker 1 does not sync", outputs, process)
    return process, folder


def said(folder: RunFolder) -> str:
    """What a run has said so far, in one line."""
    return " ".join(folder.root.with_suffix(".out").read_text().split())


def processes_of(folder: RunFolder) -> list[int]:
    found = subprocess.run(["pgrep", "-f", f"muloco worker {folder.config}"], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def kill(folder: RunFolder, worker: int) -> None:
    subprocess.run(["pkill", "-9", "-f", f"{folder.config} --fault_tolerance.replica_id {worker}"], check=True)


def events(folder: RunFolder, event: str, **having: Any) -> list[dict[str, Any]]:
    lines = [line for path in folder.metrics_files().values() for line in read_lines(path)]
    wanted = {"event": event, **having}
    found = (line for line in lines if all(line.get(key) == value for key, value in wanted.items()))
    return sorted(found, key=lambda line: line.get("time", 0.0))


def stop(process: subprocess.Popen, folder: RunFolder) -> str:
    """What it has said, once it has stopped after Ctrl-C."""
    process.send_signal(signal.SIGINT)
    assert wait_for_end(process, folder.root.parent) == 130, said(folder)
    assert processes_of(folder) == []
    return said(folder)


def test_a_killed_worker_and_a_killed_lighthouse_come_back_and_ctrl_c_ends_all(tmp_path: Path) -> None:
    """The worker takes over the state of the other one, and the run can be resumed."""
    process, folder = start_and_wait_for_syncs(tmp_path, "killed")
    process.send_signal(signal.SIGSTOP)  # the supervisor starts no worker before the other one has gone on alone
    try:
        kill(folder, 1)
        killed = time.time()
        wait_until(
            lambda: [m for m in events(folder, "sync", participants=1) if m["time"] > killed],
            *("worker 0 does not go on alone", tmp_path, process),
        )
    finally:
        process.send_signal(signal.SIGCONT)
    wait_until(
        lambda: [m for m in events(folder, "sync", worker=1) if m["time"] > killed],
        *("it does not come back", tmp_path, process),
    )
    children = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "muloco lighthouse"], capture_output=True)
    (lighthouse,) = children.stdout.split()
    subprocess.run(["kill", "-9", lighthouse], check=True)
    lost = time.time()
    wait_until(
        lambda: [m for m in events(folder, "sync", participants=2) if m["time"] > lost + 5],
        "no sync of both without the lighthouse",  # who knocks first at the new one may go a window alone
        *(tmp_path, process),
    )
    output = stop(process, folder)
    assert (
        "the lighthouse was lost (killed by SIGKILL)" in output and f"muloco train {folder.config} --resume" in output
    )
    assert "worker 1 was lost: killed by SIGKILL" in output and "worker 0 was lost" not in output
    syncs = events(folder, "sync")
    back = next(line["step"] for line in events(folder, "join") if line["time"] > killed)
    assert {1, 2} == {m["participants"] for m in syncs if m["step"] < back}, "worker 0 went on alone"
    assert any(m["participants"] == 2 for m in syncs if m["step"] > back)
    anchors: dict[int, set[str]] = {}
    for line in syncs:
        anchors.setdefault(line["step"], set()).add(line["digest"])
    assert all(len(digests) == 1 for digests in anchors.values())


@pytest.mark.full
def test_sharded_workers_that_stream_in_few_bits_come_back_and_resume(tmp_path: Path) -> None:
    """Two workers of two ranks (FSDP2). The other one waits for the killed one, so that the end is the same each time;
    in the checkpoint of step 27 a fragment is on its way."""
    settings = {
        "training__steps": 32,
        "fault_tolerance__sync_steps": 8,
        "fault_tolerance__num_fragments": 2,
        "fault_tolerance__fragment_sync_delay": 1,
        "fault_tolerance__min_replica_size": 2,
        "compression__kind": "lloyd_max",
        "compression__bits": 4,
        "parallelism__data_parallel_shard_degree": 2,
        "checkpoint__interval": 9,
        "metrics__log_freq": 1,
    }
    process, folder = start_and_wait_for_syncs(tmp_path, "sharded", **settings)
    kill(folder, 1)
    assert wait_for_end(process, tmp_path) == 0, said(folder)
    run = Run(folder=folder, status=0, output=said(folder))
    assert "worker 1 was lost: killed by SIGKILL" in run.output and "worker 0 was lost" not in run.output
    assert [line["worker"] for line in run.lines(event="join")] == [1]
    assert all(len(set(digests.values())) == 1 for digests in run.digests())
    assert run.validation()[32] < run.validation()[0] - 0.5
    learned = run.learned()
    run.go_back_to(27)
    again = train(tmp_path, "sharded", MULOCO, "--resume", **settings)
    assert again.status == 0, again.output
    assert {line["attempt"] for line in again.lines(worker=0) if line["step"] > 27} == {2}
    # what the ranks of a worker that came back count is stored once, so that their sum may be a sequence or two off
    assert again.learned() | {"tokens": None} == learned | {"tokens": None}
    assert again.summary()["tokens"] == pytest.approx(learned["tokens"], abs=2 * 64)


@pytest.mark.full
def test_a_run_whose_state_is_lost_does_not_begin_anew(tmp_path: Path) -> None:
    """Both workers are killed; what they start from again is behind what the run has come to."""
    process, folder = start_and_wait_for_syncs(tmp_path, "forgotten", checkpoint__interval=100_000)
    for worker in (0, 1):
        kill(folder, worker)
    assert wait_for_end(process, tmp_path) == 1, said(folder)
    reached = events(folder, "sync")[-1]["step"]
    lost = f"StateLost: run 'forgotten' has come to step {reached}, but the workers that are left begin after step 0"
    assert f"failed: {lost}" in said(folder)
    assert {line["attempt"] for line in events(folder, "sync")} == {1} and not folder.summary.exists()


@pytest.mark.full
def test_a_failing_worker_is_named_with_its_reason(tmp_path: Path) -> None:
    run = train(tmp_path, "failing", MULOCO, fault_tolerance__group_size=1, training__steps=30, optimizer__lr=1e30)
    assert run.status == 3
    assert re.search(
        r"worker \d failed: NonFiniteGradient: NaN or Inf in the gradient of \S+.* at inner step \d+\n", run.output
    )
    assert not run.folder.summary.exists()


POISON = """
import os, sys

if "worker" in sys.orig_argv:
    from muloco._torchtitan import Trainer

    forward_backward_step = Trainer.forward_backward_step

    def poisoned(self, **batch):
        loss = forward_backward_step(self, **batch)
        if self.step == 6 and self.config.muloco.fault_tolerance.replica_id == 1:
            self.model_parts[0].get_parameter("layers.1.attention.wo.weight").grad[3, 5] = float("nan")
        return loss

    Trainer.forward_backward_step = poisoned
"""


@pytest.mark.full
def test_a_bad_gradient_stops_the_run_before_it_gets_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is logged between steps 1 and 100, so that it is the sync and the checkpoint at step 8 that find it."""
    (tmp_path / "sitecustomize.py").write_text(POISON)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    settings = {"training__steps": 30, "fault_tolerance__sync_steps": 4, "checkpoint__interval": 4}
    settings["checkpoint__keep"] = 0  # worker 0 goes on alone until the launcher ends it
    run = train(tmp_path, "poisoned", MULOCO, **settings, metrics__log_freq=100)
    assert run.status == 3
    message = "NaN or Inf in the gradient of layers.1.attention.wo.weight at inner step 6, seen at step 8\n"
    assert f"worker 1 failed: NonFiniteGradient: {message}" in run.output
    assert "worker 0 failed" not in run.output
    assert [line["step"] for line in run.lines(event="sync", worker=1)] == [4]
    assert all(line["participants"] == 1 for line in run.lines(event="sync", worker=0) if line["step"] > 4)
    assert [path.parent.name for path in run.folder.checkpoint.glob("*/worker-001")] == ["step-4"]


STANDS = """
import os, sys

if "worker" in sys.orig_argv and sys.orig_argv[sys.orig_argv.index("--fault_tolerance.replica_id") + 1] == "1":
    import time
    from muloco.failpoints import on_hit

    taken = 0

    def stand_still_here(phase):
        global taken
        taken += phase == "inner_step"
        if phase == "inner_step" and taken == 7 and not os.path.exists(f"{os.path.dirname(__file__)}/stood"):
            open(f"{os.path.dirname(__file__)}/stood", "w").close()
            time.sleep(100_000)

    on_hit(stand_still_here)
"""


@pytest.mark.full
def test_a_worker_that_stands_still_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one waits for it, so that the end is the same each time."""
    (tmp_path / "sitecustomize.py").write_text(STANDS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    settings = {"training__steps": 16, "fault_tolerance__sync_steps": 4, "fault_tolerance__min_replica_size": 2}
    run = train(tmp_path, "still", MULOCO, **settings, fault_tolerance__stall_timeout_seconds=10)
    assert run.status == 0, run.output
    told = " ".join(run.output.split())
    assert re.search(r"worker 1 stands still: no sign of life for \d+ s \(state: training, after step [456]\)", told)
    assert "worker 1 was lost: stood still for" in told and "worker 0 was lost" not in told
    log = run.folder.log(1).read_text()
    assert "in stand_still_here" in log and "in train_step" in log, "the stacks of its threads"
    assert "\x1e" not in log + run.output
    assert run.summary()["restarts"] == 1 and [line["worker"] for line in run.lines(event="join")] == [1]
    assert all(len(set(digests.values())) == 1 for digests in run.digests())


BAD_LINES = (
    b'{"event": "sync", "step": \0\0\0\n',
    b"\0" * 40 + b"\n",
    b'{"attempt": 1, "worker": 1, "step": 4, "event": "sync"}\n',
    b'{"attempt": 1, "worker": 9, "step": 4, "loss": "low", "weights": []}\n',
)


def has_begun(folder: RunFolder, process: subprocess.Popen, attempt: int) -> bool:
    return process.poll() is not None or any(line["attempt"] == attempt for line in events(folder, "sync"))


@pytest.mark.full
def test_nothing_that_is_written_for_people_ends_the_training(tmp_path: Path) -> None:
    """All at once: the console is closed, logs go to a full disk, events of TensorBoard have no place, and a metrics
    file has lines that are none, in both attempts."""
    folder = RunFolder(tmp_path / "run")
    folder.log(0).parent.mkdir(parents=True)
    for name in (0, "lighthouse"):
        folder.log(name).symlink_to("/dev/full")
    folder.tensorboard(0).parent.write_text("a file")
    settings = {"fault_tolerance__sync_steps": 4, "metrics__tensorboard": True, "checkpoint__interval": 8}
    for attempt, flags, steps in ((1, (), 24), (2, ("--resume",), 32)):
        words = command(tmp_path, "run", MULOCO, *flags, **settings, training__steps=steps)
        with (tmp_path / f"{attempt}.err").open("w") as errors:
            process = subprocess.Popen(
                ["bash", "-o", "pipefail", "-c", '"$@" | head -n 2', "bash", *words],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "RUST_LOG": "info"},
            )
        wait_until(partial(has_begun, folder, process, attempt), "it does not begin", tmp_path)
        with folder.metrics(1).open("ab") as file:
            file.write(b"".join(BAD_LINES))
        said = (wait_for_end(process, tmp_path), (tmp_path / f"{attempt}.err").read_text())
        assert said[0] == 0 and "Traceback" not in said[1], said
        assert json.loads(folder.summary.read_text())["steps"] == steps
    assert {line["attempt"] for line in events(folder, "sync")} == {1, 2}


def test_too_large_a_held_out_set_is_refused_before_anything_starts(tmp_path: Path) -> None:
    run = train(tmp_path, "greedy", MULOCO, training__steps=4, validation__sequences=1_000_000)
    assert run.status == 2
    assert re.search(r"holds out \d+ sequences of 64 tokens .*, 1000000 were asked for", run.output)
    assert not run.folder.root.exists()


@pytest.mark.full
@pytest.mark.parametrize("transport", ["in_process", "torchft"])
def test_resume_continues_bit_by_bit(tmp_path: Path, transport: str) -> None:
    """The checkpoint is of mid-window, in warm-up, after a sync: LR, data, inner and outer state have to be right.
    Muon steps the matrices, Lion the embedding, AdamW the rest."""
    settings = {"training__steps": 14, "fault_tolerance__sync_steps": 4, "lr_scheduler__warmup_steps": 9}
    settings |= {"optimizer__embedding__rule": "lion", "optimizer__embedding__lr_factor": 0.2}
    settings |= {"fault_tolerance__transport": transport}
    first = train(tmp_path, "resumed", MULOCO, **settings, checkpoint__interval=7)
    assert first.status == 0, first.output
    learned = first.learned()
    first.go_back_to(7)
    again = train(tmp_path, "resumed", MULOCO, "--resume", **settings, checkpoint__interval=7)
    assert again.status == 0, again.output
    attempts = {line["step"]: line["attempt"] for line in again.lines(worker=1) if "loss" in line}
    assert attempts == {step: 1 if step <= 7 else 2 for step in range(1, 15)}
    assert again.learned() == learned


@pytest.mark.full
def test_checkpoints_change_nothing(tmp_path: Path) -> None:
    settings = {"training__steps": 14, "fault_tolerance__sync_steps": 4, "fault_tolerance__transport": "in_process"}
    saved, without = (
        train(tmp_path, name, MULOCO, **settings, **checkpoints)
        for name, checkpoints in (("saved", {"checkpoint__interval": 7}), ("without", {"checkpoint__enable": False}))
    )
    assert (saved.status, without.status) == (0, 0), saved.output + without.output
    assert saved.learned() == without.learned()


def test_runs_are_not_overwritten_and_not_changed_on_the_way(tmp_path: Path) -> None:
    settings = {"training__steps": 2, "fault_tolerance__sync_steps": 2, "fault_tolerance__group_size": 1}
    assert train(tmp_path, "kept", MULOCO, **settings).status == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*")}
    for flags, change, message in (
        ((), {}, "already holds a run; choose another --run.name, or resume it with --resume"),
        (("--resume",), {"run__name": "absent"}, "there is no run to resume in"),
    ):
        refused = train(tmp_path, change.get("run__name", "kept"), MULOCO, *flags, **settings)
        assert refused.status == 2 and message in refused.output
    ended = train(tmp_path, "kept", MULOCO, "--resume", **settings)
    assert ended.status == 0 and "is complete at step 2" in ended.output
    del before[tmp_path / "kept" / "loss.png"]
    (tmp_path / "kept" / "loss.png").unlink()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*")} == before
    (tmp_path / "kept" / "summary.json").unlink()
    changed = train(tmp_path, "kept", MULOCO, "--resume", **settings, outer_optimizer__lr=0.1)
    assert changed.status == 2
    assert "these fields: outer_optimizer.lr 0.7 -> 0.1;" in changed.output
