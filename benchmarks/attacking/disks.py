"""Full disks, a closed console, and a deleted run folder."""

import random
import shutil
import subprocess
import time
from collections.abc import Sequence

from attacking.live import LiveRun, wait_for
from attacking.registry import Report, Seen, Verdict, attack
from attacking.scenes import FIRST_SYNC_SECONDS, Workshop
from attacking.small_disks import SmallDisks

GOES_ON = "the training goes on while the disk is full, and writes again once it is not"
FULL_SECONDS = 5.0


@attack("disks", must=GOES_ON, scene="disks")
def logs_full(run: LiveRun, rng: random.Random) -> Seen:
    """Fills the disk of the logs for five seconds."""
    return _full(run, ("logs",))


@attack("disks", must=GOES_ON, scene="disks")
def metrics_full(run: LiveRun, rng: random.Random) -> Seen:
    """Fills the disk of the metrics for five seconds."""
    return _full(run, ("metrics",))


@attack("disks", must=GOES_ON, scene="disks")
def commit_logs_full(run: LiveRun, rng: random.Random) -> Seen:
    """Fills the disk of the commit logs for five seconds."""
    if not list(run.files.glob("commits/*")):
        return Seen(impossible="the run has no commit log")
    return _full(run, ("commits",))


@attack("disks", must=GOES_ON + "; a later checkpoint is whole", scene="disks")
def checkpoints_full(run: LiveRun, rng: random.Random) -> Seen:
    """Fills the disk of the checkpoints while one is saved."""
    seen = _full(run, ("checkpoint",), seconds=8)
    newest = max(run.checkpoints(), default=0)
    if not wait_for(lambda: max(run.checkpoints(), default=0) > newest, 60):
        seen.wrong.append(f"no checkpoint after that of step {newest}")
    return seen


@attack("disks", must=GOES_ON, scene="disks")
def all_disks_full(run: LiveRun, rng: random.Random) -> Seen:
    """Fills all of them at once for five seconds."""
    return _full(run, ())


@attack("disks", must="it ends with status 1 and the reason; when there is space again, --resume completes it")
def disk_full_at_the_last_checkpoint(workshop: Workshop, rng: random.Random) -> Report:
    """Leaves no space for the only checkpoint, which is that of the last step."""
    outputs = workshop.room()
    try:
        disks = SmallDisks(outputs / "last", {"checkpoint": 16384})
    except OSError as error:
        return Report.of(Verdict.IMPOSSIBLE, str(error))
    run = LiveRun(outputs, "last", _brief(20), workers=2, pace=0.0, disks=disks)
    try:
        disks.fill()
        run.start()
        status = run.wait(FIRST_SYNC_SECONDS)
        said = run.last_lines()
        if status is None:
            return Report.of(Verdict.HUNG, f"no end: {said}")
        if status != 1 or "checkpoint" not in said:
            return Report.of(Verdict.LOST, f"status {status} instead of 1, or no reason: {said}")
        disks.free()
        run.start("--resume")
        again = run.wait(FIRST_SYNC_SECONDS)
        if again != 0 or not (run.files / "summary.json").exists():
            return Report.of(Verdict.LOST, f"--resume ends with status {again}: {run.last_lines()}")
        return Report.of(Verdict.ENDED, said.splitlines()[-1])
    finally:
        run.end()
        disks.end()


@attack("disks", must="the run trains to its end, with status 0")
def console_closed(workshop: Workshop, rng: random.Random) -> Report:
    """Closes the reader of the supervisor's output, as `muloco train ... | head` does."""
    outputs = workshop.room()
    run = LiveRun(outputs, "unread", _brief(60), workers=2, pace=0.05)
    run.start(stdout=subprocess.PIPE)
    try:
        assert run.process is not None and run.process.stdout is not None
        for _ in range(20):
            run.process.stdout.readline()
        run.process.stdout.close()
        status = run.wait(FIRST_SYNC_SECONDS)
        if status is None:
            return Report.of(Verdict.HUNG, f"no end; newest sync at step {run.step()}")
        if status or not (run.root / "summary.json").exists():
            return Report.of(Verdict.LOST, f"status {status}, newest sync at step {run.step()}")
        return Report.of(Verdict.SURVIVED)
    finally:
        run.end()


@attack("disks", must="it goes on, or ends with the reason in one line and leaves no process")
def run_folder_deleted(workshop: Workshop, rng: random.Random) -> Report:
    """Deletes the folder of a live run."""
    outputs = workshop.room()
    run = LiveRun(outputs, "deleted", {}, workers=2)
    run.start()
    try:
        if not run.goes_on(seconds=FIRST_SYNC_SECONDS):
            return Report.of(Verdict.LOST, f"it does not start: {run.last_lines(3)}")
        run.processes()
        shutil.rmtree(run.root)
        before = len(run.said())
        time.sleep(12)
        if run.status is None:
            if run.said()[before:].count(" step ") < 4:
                return Report.of(Verdict.HUNG, f"no inner step for 12 s: {run.last_lines(2)}")
            run.end()
            return Report.of(Verdict.SURVIVED, f"it goes on; {_warning(run, before)}")
        said = run.last_lines(4)
        if "Traceback" in said or run.status < 0:
            return Report.of(Verdict.LOST, f"status {run.status}: {said}")
        return Report.of(Verdict.ENDED, f"status {run.status}: {said.splitlines()[-1]}")
    finally:
        run.end()


def _warning(run: LiveRun, start: int) -> str:
    warnings = [line for line in run.said()[start:].splitlines() if "WARN" in line or "ERROR" in line]
    return warnings[0] if warnings else "nothing is said"


def _brief(steps: int) -> dict[str, object]:
    return {"training.steps": steps, "checkpoint.interval": 1000, "validation.freq": 1000}


def _full(run: LiveRun, parts: Sequence[str], *, seconds: float = FULL_SECONDS) -> Seen:
    assert run.disks is not None
    run.disks.fill(*parts)
    before = len(run.said())
    time.sleep(seconds)
    steps = run.said()[before:].count(" step ")
    run.disks.free(*parts)
    wrong = [] if steps else [f"no inner step on the console while the disk was full ({seconds:g} s)"]
    return Seen(wrong=wrong, note=f"{steps} steps on the console meanwhile")
