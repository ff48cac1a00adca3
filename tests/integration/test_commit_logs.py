"""What decides who leads a round needs no metrics, and no folder that all workers see."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from muloco.training.checkpoint_folder import CheckpointFolder
from muloco.training.commits import Commit, newest_commits
from muloco.training.run_folder import RunFolder

from ..patience import PATIENCE
from .by_hand import HOOK, wait_until, workers
from .runs import command, train

pytestmark = pytest.mark.integration

MULOCO = "config/laptop/muloco.py"

SLOW = """
import os

if "worker" in sys.orig_argv and sys.orig_argv[-1] == "0":
    listen(lambda phase: time.sleep(2.5) if phase == "inner_step" and os.path.exists(SLOW) else None)
"""
"""Worker 0 takes longer for a window than the lighthouse waits for it, as long as a file is there."""


def test_who_stood_still_asks_the_others_where_they_see_no_common_folder(tmp_path: Path) -> None:
    """Each worker has a folder of its own, and metrics that cannot be written or read. Worker 1 stands still past its
    sync, then meets nobody at it: worker 0 is in mid-window. It leads no round, and joins again; it does so after a
    kill, too."""
    slow, folders = tmp_path / "slow", [RunFolder(tmp_path / str(worker) / "run") for worker in range(2)]
    folders[0].metrics(0).mkdir(parents=True)
    folders[1].metrics(1).parent.mkdir(parents=True)
    folders[1].metrics(1).write_bytes(b"\0garbage\xff" * 1000)
    two = {"fault_tolerance__group_size": 2, "training__global_batch_size": 4}

    def newest(worker: int) -> Commit | None:
        return next(iter(newest_commits(folders[worker].commits(worker), 1)), None)

    def wait_for_round(of: set[int]) -> None:
        before = newest(0)
        wait_until(
            lambda: (now := newest(0)) and now.members == of and (before is None or now.step > before.step + 4),
            f"no round of workers {of}",
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
        sleeper.send_signal(signal.SIGCONT)
        wait_until(lambda: "this worker was left behind" in run.log(1).read_text(), "it does not ask worker 0")
        slow.unlink()
        wait_for_round({0, 1})
        assert b" 0 1 " not in folders[1].commits(1).read_bytes(), "it has led a round alone"
        sleeper.kill()
        wait_for_round({0})
        start(1)
        wait_for_round({0, 1})
        assert run.log(1).read_text().count("joined the others") >= 2


def test_a_run_whose_metrics_cannot_be_read_trains_and_resumes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "blind")
    folder.metrics(1).mkdir(parents=True)
    folder.metrics(0).write_bytes(b"\0garbage\xff\n" * 1000)
    settings = {"training__steps": 8, "fault_tolerance__sync_steps": 4, "checkpoint__interval": 4}
    first = train(tmp_path, "blind", MULOCO, **settings)
    assert first.status == 0, first.output
    assert first.summary()["missing_metrics"] == [f"{folder.metrics(1)} has no training line"]
    first.go_back_to(4)
    again = train(tmp_path, "blind", MULOCO, "--resume", **settings)
    assert again.status == 0, again.output
    for worker in (0, 1):
        newest = newest_commits(folder.commits(worker), 2)
        assert [(one.step, sorted(one.members)) for one in newest] == [(8, [0, 1])]
        assert [one.step for one in newest_commits(folder.commits(worker), 1)] == [8]


def test_a_run_whose_folder_is_deleted_goes_on_and_can_be_resumed(tmp_path: Path) -> None:
    settings = {"training__steps": 400, "fault_tolerance__sync_steps": 4, "checkpoint__interval": 200}
    folder = RunFolder(tmp_path / "deleted")
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(command(tmp_path, "deleted", MULOCO, **settings), stdout=out, stderr=out)
        wait_until(lambda: newest_commits(folder.commits(1), 1), "it does not begin")
        folder.root.rename(tmp_path / "gone")
        shutil.rmtree(tmp_path / "gone")
        assert process.wait(PATIENCE) == 0, (tmp_path / "out").read_text()
    said = " ".join((tmp_path / "out").read_text().split())
    assert said.count("config.json is gone from the run folder") == 1
    checkpoints, _ = CheckpointFolder(folder.checkpoint).newest()
    assert checkpoints is not None and checkpoints.step == 400
    again = train(tmp_path, "deleted", MULOCO, "--resume", **{**settings, "training__steps": 408})
    assert again.status == 0, again.output
    assert [one.step for one in newest_commits(folder.commits(0), 2)] == [408]
