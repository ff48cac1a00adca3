"""The choice of a round's leaders needs neither metrics nor a folder that all workers share."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from muloco.runs.checkpoint_folder import CheckpointFolder
from muloco.runs.commits import Commit, newest_commits
from muloco.runs.folder import RunFolder

from .by_hand import HOOK, workers
from .runs import command, train
from .waiting import wait_for_end, wait_until

pytestmark = pytest.mark.integration

MULOCO = "config/laptop/muloco.py"

SLOW = """
import os

if "worker" in sys.orig_argv and sys.orig_argv[-1] == "0":
    listen(lambda phase: time.sleep(2.5) if phase == "inner_step" and os.path.exists(SLOW) else None)
"""
"""Worker 0 takes longer for a window than the lighthouse waits for it, as long as a file is there."""


@pytest.mark.full
def test_who_stood_still_asks_the_others_where_they_see_no_common_folder(tmp_path: Path) -> None:
    """Each worker has a folder of its own, and metrics that cannot be written or read. Worker 1 stands still past its
    sync, then meets nobody at it: worker 0 is in mid-window. It leads no round, and joins again; it does so after a
    kill, too."""
    slow, folders = tmp_path / "slow", [RunFolder(tmp_path / str(worker) / "run") for worker in range(2)]
    folders[0].metrics(0).mkdir(parents=True)
    folders[1].metrics(1).parent.mkdir(parents=True)
    folders[1].metrics(1).write_bytes(b"\0garbage\xff" * 1000)
    two = {"fault_tolerance__group_size": 2, "training__global_batch_size": 4}
    two["fault_tolerance__straggler_timeout_seconds"] = 120  # how long it looks for the others, not the lighthouse's

    def newest(worker: int) -> Commit | None:
        return next(iter(newest_commits(folders[worker].commits(worker), 1)), None)

    def wait_for_round(of: set[int], windows: int = 2) -> None:
        before = newest(0)
        first = 0 if before is None else before.step + 4 * windows
        wait_until(
            lambda: (now := newest(0)) and now.members == of and now.step >= first,
            *(f"no round of workers {of}", tmp_path),
        )

    with workers(tmp_path) as run:
        (tmp_path / "hook" / "sitecustomize.py").write_text(f"{HOOK}\nSLOW = {str(slow)!r}\n{SLOW}")

        def start(worker: int):
            return run.start(worker, run__outputs=str(tmp_path / str(worker)), **two)

        start(0)
        sleeper = start(1)
        wait_for_round({0, 1})
        sleeper.send_signal(signal.SIGSTOP)
        wait_for_round({0})
        slow.touch()
        wait_for_round({0}, windows=1)  # so that a slow window has just begun
        sleeper.send_signal(signal.SIGCONT)
        wait_until(
            lambda: "this worker was left behind" in run.log(1).read_text(), "it does not ask worker 0", tmp_path
        )
        slow.unlink()
        wait_for_round({0, 1})
        assert b" 0 1 " not in folders[1].commits(1).read_bytes(), "it has led a round alone"
        sleeper.kill()
        wait_for_round({0})
        start(1)
        wait_for_round({0, 1})
        assert run.log(1).read_text().count("joined the others") >= 2


@pytest.mark.full
def test_a_run_whose_metrics_cannot_be_read_trains_and_resumes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "blind")
    for worker in (0, 1):
        folder.metrics(worker).mkdir(parents=True)
    settings = {"fault_tolerance__sync_steps": 4, "checkpoint__interval": 4}
    first = train(tmp_path, "blind", MULOCO, **settings, training__steps=8)
    assert first.status == 1 and "the last step is done and saved" in first.output, first.output
    folder.metrics(0).rmdir()
    folder.metrics(0).write_bytes(b"\0garbage\xff\n" * 1000)
    again = train(tmp_path, "blind", MULOCO, "--resume", **settings, training__steps=12)
    assert again.status == 0, again.output
    assert f"{folder.metrics(1)} has no training line" in again.summary()["missing_metrics"]
    for worker in (0, 1):
        for attempt, step in ((1, 8), (2, 12)):
            (newest,) = newest_commits(folder.commits(worker), attempt)
            assert newest.step == step and newest.members == {0, 1}


@pytest.mark.full
def test_a_run_whose_folder_is_deleted_goes_on_and_can_be_resumed(tmp_path: Path) -> None:
    settings = {"training__steps": 40, "fault_tolerance__sync_steps": 4, "checkpoint__interval": 20}
    settings |= {"fault_tolerance__transport": "in_process"}
    folder = RunFolder(tmp_path / "deleted")
    with (tmp_path / "deleted.out").open("w") as out:
        process = subprocess.Popen(command(tmp_path, "deleted", MULOCO, **settings), stdout=out, stderr=out)
        wait_until(lambda: newest_commits(folder.commits(1), 1), "it does not begin", tmp_path, process)
        folder.root.rename(tmp_path / "gone")
        shutil.rmtree(tmp_path / "gone")
        assert wait_for_end(process, tmp_path) == 0, (tmp_path / "deleted.out").read_text()
    said = " ".join((tmp_path / "deleted.out").read_text().split())
    assert said.count("config.json is missing in the run folder") == 1
    checkpoints, _ = CheckpointFolder(folder.checkpoint).newest()
    assert checkpoints is not None and checkpoints.step == 40
    again = train(tmp_path, "deleted", MULOCO, "--resume", **{**settings, "training__steps": 44})
    assert again.status == 0, again.output
    assert [one.step for one in newest_commits(folder.commits(0), 2)] == [44]
