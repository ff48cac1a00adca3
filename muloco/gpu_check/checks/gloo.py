"""Workers in processes of their own that share one device."""

from muloco.gpu_check.bench import Bench, Figures, expect
from muloco.gpu_check.runs import Fields, Run, train

SHARED: Fields = {"fault_tolerance.process_group": "gloo", "validation.freq": "1000"}


def two(bench: Bench) -> Figures:
    return train(bench, "gloo_two", "laptop/muloco_streaming", SHARED | _syncs(bench)).figures()


def eight(bench: Bench) -> Figures:
    fields: Fields = {
        "model.flavor": "tiny",
        "training.global_batch_size": "64",
        "training.steps": "40",
        "fault_tolerance.group_size": bench.size("8", "3"),
        "fault_tolerance.sync_steps": bench.size("10", "6"),
    }
    if bench.rehearsal:
        fields["training.local_batch_size"] = "1"
    return train(bench, "gloo_eight", "laptop/muloco", SHARED | fields).figures()


def killed(bench: Bench) -> Figures:
    return killed_run(bench, "gloo_killed", SHARED).figures()


def killed_run(bench: Bench, name: str, fields: Fields) -> Run:
    """A run of two workers one of which is killed now and then; it comes back, and anchors stay equal."""
    chaos: Fields = {
        "chaos.interval_seconds": bench.size("15", "8"),
        "chaos.kinds": ("kill",),
        "fault_tolerance.sync_steps": bench.size("10", "6"),
        "training.steps": "600",
    }
    run = train(bench, name, "laptop/muloco", fields | chaos)
    joined = [line for line in run.lines if line.get("event") == "join"]
    if not bench.rehearsal:
        expect(bool(joined), "no worker was killed and came back; the run was too short")
    return run


def _syncs(bench: Bench) -> Fields:
    return {"fault_tolerance.sync_steps": bench.size("30", "6")}
