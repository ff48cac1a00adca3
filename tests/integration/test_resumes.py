"""A run that loses all workers, or too many, goes on from what was saved."""

import contextlib
import os
import pty
import signal
import threading
from pathlib import Path

import pytest

import muloco
from muloco.runs.checkpoint_folder import CheckpointFolder
from muloco.runs.folder import RunFolder, read_lines

from ..covering import only
from .runs import Run, command, train
from .test_interruptions import MULOCO, events, kill, processes_of, said, start_and_wait_for_syncs
from .waiting import wait_for_end, wait_until

pytestmark = pytest.mark.integration

SETTINGS = {"training__steps": 60, "fault_tolerance__sync_steps": 4, "metrics__log_freq": 1}


@pytest.mark.parametrize("by_hand", only([False], [False, True]))
def test_a_run_that_loses_all_workers_resumes_by_itself_as_it_does_by_hand(tmp_path: Path, by_hand: bool) -> None:
    settings = {**SETTINGS, "checkpoint__interval": 30}
    process, folder = start_and_wait_for_syncs(tmp_path, "lost", **settings)
    wait_until(
        lambda: [line for line in events(folder, "sync") if line["step"] > 32],
        *("the checkpoint is not passed", tmp_path, process),
    )
    for worker in (0, 1):
        kill(folder, worker)
    assert wait_for_end(process, tmp_path) == 0, said(folder)
    assert "failed: StateLost: run 'lost' has come to step" in said(folder)
    assert "the run is resumed from the checkpoint of step 30 (attempt 2; resume 1 of 3" in said(folder)
    run = Run(folder=folder, status=0, output=said(folder))
    assert run.summary()["resumes"] == 1
    assert {line["step"] for line in run.lines(event="resume")} == {30}
    if not by_hand:
        return
    learned = run.learned()
    run.go_back_to(30)
    again = train(tmp_path, "lost", MULOCO, "--resume", **settings)
    assert again.status == 0 and again.summary()["resumes"] == 0, again.output
    assert {line["attempt"] for line in again.lines(worker=0) if line["step"] > 30} == {3}
    assert again.learned() == learned


@pytest.mark.full
def test_a_worker_that_finds_too_few_others_saves_what_it_holds(tmp_path: Path) -> None:
    """Worker 1 is gone for good. The state of worker 0 is all that is left: no committed sync is lost with it."""
    settings = {
        **SETTINGS,
        "checkpoint__interval": 1000,
        "fault_tolerance__min_replica_size": 2,
        "fault_tolerance__restarts": 0,
        "fault_tolerance__resumes": 0,
        "fault_tolerance__quorum_timeout_seconds": 20,
    }
    process, folder = start_and_wait_for_syncs(tmp_path, "alone", **settings)
    kill(folder, 1)
    assert wait_for_end(process, tmp_path) == 75, said(folder)
    newest, aside = CheckpointFolder(folder.checkpoint).newest()
    synced = max(line["step"] for line in events(folder, "sync"))
    assert newest is not None and not aside and newest.step == synced + 4
    assert newest.parts == ["global", "worker-000"]
    assert f"the checkpoint of step {newest.step} is kept; resume with: muloco train" in said(folder)

    again = train(tmp_path, "alone", MULOCO, "--resume", **settings)
    assert again.status == 0, again.output
    committed = [line for line in read_lines(folder.metrics(0)) if line.get("event") == "sync" and line["attempt"] == 1]
    assert committed and all(line in again.lines() for line in committed)
    later = again.lines(event="sync", attempt=2)
    assert {line["step"] for line in later} == set(range(newest.step + 4, 61, 4))
    assert all(line["participants"] == 2 for line in later)
    assert all(len(set(digests.values())) == 1 for digests in again.digests())


@pytest.mark.full
@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_goes_away_asks_for_a_stop_except_under_nohup(tmp_path: Path, nohup: bool) -> None:
    words = ["nohup"] if nohup else []
    words += command(tmp_path, "left", str(Path(MULOCO).absolute()), **SETTINGS, fault_tolerance__group_size=1)
    folder = RunFolder(tmp_path / "left")
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = str(Path(muloco.__file__).parents[1])
        os.chdir(tmp_path)
        os.execvp(words[0], words)
    reader = threading.Thread(target=read_all, args=(terminal,))
    reader.start()
    wait_until(lambda: events(folder, "sync"), "it does not train", tmp_path)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    step, steps = CheckpointFolder(folder.checkpoint).newest()[0].step, SETTINGS["training__steps"]
    if nohup:
        assert (os.waitstatus_to_exitcode(status), step) == (0, steps)
    else:
        assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP and 0 < step < steps
    assert processes_of(folder) == []


def read_all(terminal: int) -> None:
    """Reads what is shown, so that a full terminal stops nobody."""
    with contextlib.suppress(OSError):
        while os.read(terminal, 65536):
            pass
