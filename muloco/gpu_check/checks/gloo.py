"""Checks of workers in separate processes that share one device."""

import itertools
import json
import os
import signal
import threading
from pathlib import Path

from muloco.gpu_check.bench import Bench, Figures, expect
from muloco.gpu_check.runs import Fields, outputs, train
from muloco.runs.folder import RunFolder, read_lines

SHARED: Fields = {"fault_tolerance.process_group": "gloo", "validation.freq": "1000"}
POLL_SECONDS = 0.2
KILLED = 1
"""Index of the worker that is killed."""


def gloo_two(bench: Bench) -> Figures:
    fields = SHARED | {"fault_tolerance.sync_steps": bench.size("30", "6")}
    return train(bench, "gloo_two", "laptop/muloco_streaming", fields).figures()


def gloo_eight(bench: Bench) -> Figures:
    fields: Fields = {
        "model.flavor": "tiny",
        "training.global_batch_size": bench.size("64", "6"),
        "training.steps": bench.size("40", "12"),
        "fault_tolerance.group_size": bench.size("8", "3"),
        "fault_tolerance.sync_steps": bench.size("10", "6"),
    }
    return train(bench, "gloo_eight", "laptop/muloco", SHARED | fields).figures()


def gloo_killed(bench: Bench) -> Figures:
    return figures_of_killed(bench, "gloo_killed", SHARED)


def figures_of_killed(bench: Bench, name: str, fields: Fields) -> Figures:
    """Trains two workers and kills one of them after its first sync. Fails unless the worker is started again and all
    anchors are equal."""
    long: Fields = {
        "fault_tolerance.sync_steps": bench.size("10", "6"),
        "training.steps": bench.size("3000", "60"),
    }
    ended = threading.Event()
    killer = threading.Thread(target=_kill_after_first_sync, args=(RunFolder(outputs(bench, name)), ended))
    killer.start()
    try:
        run = train(bench, name, "laptop/muloco", fields | long)
    finally:
        ended.set()
        killer.join()
    restarts = json.loads(run.folder.summary.read_text())["restarts"]
    expect(restarts > 0, "no worker was killed before the run had ended")
    joins = sum(line.get("event") == "join" for line in run.lines)
    return {**run.figures(), "restarts": restarts, "joins": joins}


def _kill_after_first_sync(folder: RunFolder, ended: threading.Event) -> None:
    while not ended.wait(POLL_SECONDS):
        metrics = folder.metrics(KILLED)
        if metrics.exists() and any(line.get("event") == "sync" for line in read_lines(metrics)):
            for process in _worker_processes(folder):
                os.kill(process, signal.SIGKILL)
            return


def _worker_processes(folder: RunFolder) -> list[int]:
    """Returns the ids of the processes of worker `KILLED`."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
        except OSError:  # it has ended meanwhile
            continue
        ours = "worker" in words and str(folder.config) in words
        if ours and ("--fault_tolerance.replica_id", str(KILLED)) in itertools.pairwise(words):
            processes.append(int(path.parent.name))
    return processes
