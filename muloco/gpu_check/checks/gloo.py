"""Workers in processes of their own that share one device."""

import json

from muloco.gpu_check.bench import Bench, Figures, expect
from muloco.gpu_check.runs import Fields, Run, train

SHARED: Fields = {"fault_tolerance.process_group": "gloo", "validation.freq": "1000"}


def two(bench: Bench) -> Figures:
    return train(bench, "gloo_two", "laptop/muloco_streaming", SHARED | _syncs(bench)).figures()


def eight(bench: Bench) -> Figures:
    fields: Fields = {
        "model.flavor": "tiny",
        "training.global_batch_size": bench.size("64", "6"),
        "training.steps": bench.size("40", "12"),
        "fault_tolerance.group_size": bench.size("8", "3"),
        "fault_tolerance.sync_steps": bench.size("10", "6"),
    }
    return train(bench, "gloo_eight", "laptop/muloco", SHARED | fields).figures()


def killed(bench: Bench) -> Figures:
    return killed_run(bench, "gloo_killed", SHARED).figures()


def killed_run(bench: Bench, name: str, fields: Fields) -> Run:
    """A run of two workers one of which is killed now and then; it is started again, and all anchors are equal."""
    chaos: Fields = {
        "chaos.interval_seconds": bench.size("15", "8"),
        "chaos.kinds": ("kill",),
        "fault_tolerance.sync_steps": bench.size("10", "6"),
        "training.steps": bench.size("3000", "60"),
    }
    run = train(bench, name, "laptop/muloco", fields | chaos)
    restarts = json.loads(run.folder.summary.read_text())["restarts"]
    expect(bench.rehearsal or restarts > 0, "no worker was killed before the run had ended")
    return run


def _syncs(bench: Bench) -> Fields:
    return {"fault_tolerance.sync_steps": bench.size("30", "6")}
