"""Workers come and go while the run goes on."""

import os
import signal
import time
from pathlib import Path

import pytest

from muloco.launch.lighthouse import start_lighthouse

from .by_hand import Workers, workers
from .waiting import wait_for_end, wait_until

pytestmark = pytest.mark.integration


@pytest.mark.full
def test_workers_are_added_and_removed_and_too_few_wait(tmp_path: Path) -> None:
    """Two of three begin; the third comes later; two leave: one is too few, and waits until another comes back."""
    three = {"fault_tolerance__group_size": 3, "fault_tolerance__min_replica_size": 2}
    with workers(tmp_path, least=2) as run:
        run.start(0, **three)
        leaver = run.start(1, **three)
        run.wait_for_sync({0, 1})
        latecomer = run.start(2, **three)
        joined = run.wait_for_sync({0, 1, 2})
        assert any(line["step"] < joined["step"] for line in run.lines(event="join", worker=2))
        assert sum(joined["weights"].values()) == 12, "each of them took a window of 4 inner steps"
        for process in (leaver, latecomer):
            process.kill()
            process.wait()
        log = run.log(0)
        wait_until(
            lambda: "waiting for 2 or more workers after step" in log.read_text(),
            *("it does not say that it waits", tmp_path),
        )
        last = run.lines(event="sync", worker=0)[-1]["step"]
        time.sleep(2)
        assert run.lines(event="sync", worker=0)[-1]["step"] == last, "one worker is too few"
        run.start(1, **three)
        again = run.wait_for_sync({0, 1})
        assert again["step"] == last + 8, "it joins at the next sync, and takes part from the one after"
        anchors: dict[int, set[str]] = {}
        for line in run.lines(event="sync"):
            anchors.setdefault(line["step"], set()).add(line["digest"])
        assert all(len(digests) == 1 for digests in anchors.values())
        assert sorted(anchors) == list(range(4, 4 * len(anchors) + 1, 4)), "no sync was left out"


@pytest.mark.full
def test_workers_wait_for_a_lighthouse_that_hangs_and_is_replaced(tmp_path: Path) -> None:
    settings = {"heartbeat_timeout": 2.0, "join_timeout": 5.0, "workers": 2, "log": tmp_path / "lighthouse.log"}
    hanging, address = start_lighthouse(**settings)
    run = Workers(tmp_path, address)
    try:
        both = [run.start(worker, fault_tolerance__min_replica_size=2) for worker in (0, 1)]
        run.wait_for_sync({0, 1})
        os.killpg(hanging._process.pid, signal.SIGSTOP)
        time.sleep(5)
        hanging.end(grace_seconds=0)
        time.sleep(5)
        port = int(address.rpartition(":")[2])
        replacement, _ = start_lighthouse(**settings, port=port)
        try:
            run.wait_for_sync({0, 1})
            assert [process.poll() for process in both] == [None, None]
        finally:
            replacement.end(grace_seconds=5)
    finally:
        run.end()
        hanging.end(grace_seconds=0)


@pytest.mark.full
def test_a_stopped_worker_is_left_out_and_comes_back(tmp_path: Path) -> None:
    two = {"fault_tolerance__group_size": 2, "training__global_batch_size": 4}
    with workers(tmp_path) as run:
        run.start(0, **two)
        sleeper = run.start(1, **two)
        run.wait_for_sync({0, 1})
        sleeper.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        sleeper.send_signal(signal.SIGCONT)
        run.wait_for_sync({0, 1})
        assert {line["participants"] for line in run.lines(event="sync")} == {2}, "a short pause is waited for"
        sleeper.send_signal(signal.SIGSTOP)
        run.wait_for_sync({0})
        sleeper.send_signal(signal.SIGCONT)
        again = run.wait_for_sync({0, 1})
        assert [line["worker"] for line in run.lines(event="join")] == [1]
        digests = {line["digest"] for line in run.lines(event="sync", step=again["step"])}
        assert sleeper.poll() is None and len(digests) == 1


@pytest.mark.full
def test_strangers_stop_and_the_run_goes_on(tmp_path: Path) -> None:
    """One of another run at the same lighthouse, a second worker of the same number, and one with another config, whose
    payloads would have other sizes."""
    two = {"fault_tolerance__group_size": 2, "training__global_batch_size": 4}
    with workers(tmp_path) as run:
        run.start(0, **two)
        run.start(1, **two)
        run.wait_for_sync({0, 1})
        stranger = run.start(0, run="other", **two)
        assert wait_for_end(stranger, tmp_path) == 3
        assert "ForeignRun: the lighthouse serves run 'run'" in run.log(0, "other").read_text()
        run.wait_for_sync({0, 1})
        twin = run.start(1, **two)
        assert wait_for_end(twin, tmp_path) == 3
        assert "ForeignRun: run 'run' has a worker 1 already (fault_tolerance.replica_id)" in run.log(1).read_text()
        run.wait_for_sync({0, 1})
        misfit = run.start(1, compression__kind="bf16", **two)
        assert wait_for_end(misfit, tmp_path) == 3
        assert "ForeignRun: this worker has compression.kind=bf16, the run has none" in run.log(1).read_text()
        run.wait_for_sync({0, 1})


@pytest.mark.full
def test_a_worker_that_slept_through_the_end_does_not_make_one_of_its_own(tmp_path: Path) -> None:
    two = {"fault_tolerance__group_size": 2, "training__global_batch_size": 4, "training__steps": 60}
    with workers(tmp_path) as run:
        awake = run.start(0, **two)
        sleeper = run.start(1, **two)
        run.wait_for_sync({0, 1})
        sleeper.send_signal(signal.SIGSTOP)
        assert wait_for_end(awake, tmp_path) == 0
        made = run.lines(event="sync", worker=1)
        sleeper.send_signal(signal.SIGCONT)
        assert wait_for_end(sleeper, tmp_path) == 4
        assert "StateLost: run 'run' has come to step 60" in run.log(1).read_text()
        assert run.lines(event="sync", worker=1) == made
