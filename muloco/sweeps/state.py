"""The state of each job of a sweep, from its run folder, the record of the sweep, and SLURM's queue."""

import enum
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from muloco.errors import LASTING
from muloco.files import last_lines
from muloco.resolve import completed
from muloco.runs.folder import STATE, RunFolder, read_json, standing
from muloco.runs.metrics_lines import parsed_line
from muloco.settings.fields import identity
from muloco.settings.stored import from_dict
from muloco.sweeps import slurm
from muloco.sweeps.expand import Job
from muloco.sweeps.folder import Submission, SweepFolder


class Kind(enum.StrEnum):
    NEW = "not submitted"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """State of a job that was submitted and is not done, if there is no SLURM to ask."""
    TAKEN = "taken"
    """State of a job whose name, in the queue or among the run folders, belongs to something else."""


@dataclass(frozen=True)
class State:
    kind: Kind
    job: str = ""
    """Id of its newest job of SLURM."""
    note: str = ""


@dataclass(frozen=True)
class Progress:
    """How far a run has come; None: not known yet."""

    step: int | None = None
    loss: float | None = None
    """Training loss at that step, the mean over the workers that have written it."""
    validation_loss: float | None = None
    """The newest held-out loss."""


def state_of(job: Job, folder: SweepFolder, queue: Iterable[slurm.Queued] | None) -> State:
    """Returns the state of a job.

    Args:
        folder: of the sweep. What SLURM still knows of the end of a job is kept in its record.
        queue: SLURM's; None where there is no SLURM.

    Raises:
        slurm.SlurmError: SLURM does not answer.
    """
    submissions = folder.record(job.name).submissions
    newest = submissions[-1] if submissions else None
    run = RunFolder(job.run_folder)
    if (reason := other_run(job)) is not None:
        return State(Kind.TAKEN, note=reason)
    if run.summary.exists():
        return State(Kind.DONE, job=newest.id if newest else "")
    for queued in queue or ():
        if queued.name == job.name:
            if queued.script != str(folder.script(job.name)):
                return State(Kind.TAKEN, job=queued.id, note=f"a job of this name is queued, from {queued.script}")
            return State(Kind.QUEUED if queued.waits else Kind.RUNNING, job=queued.id)
    if newest is None:
        return State(Kind.NEW)
    if queue is None:
        return State(Kind.UNKNOWN, job=newest.id, note=f"submitted {newest.time}; there is no SLURM here to ask")
    if not newest.ended and (end := slurm.ended(newest.id)) is not None:
        newest.ended, newest.exit_status = end
    return State(Kind.FAILED, job=newest.id, note=_failure(newest))


def fails_again(submission: Submission) -> bool:
    """Whether a job ended for a reason that would end it again: its config cannot be used, or its training fails."""
    return submission.exit_status in LASTING or (not submission.ended and _complaint(submission) != "")


def progress(folder: RunFolder) -> Progress:
    """How far a run has come, from the ends of its metrics files."""
    every = (parsed_line(line) for path in folder.metrics_files().values() for line in last_lines(path))
    lines = standing([line for line in every if line and line.get("event") != STATE])
    training = {(line["step"], line["worker"]): line["loss"] for line in lines if "loss" in line}
    validations = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}
    step = max((step for step, _ in training), default=None)
    losses = [loss for (at, _), loss in training.items() if at == step]
    return Progress(
        step=step,
        loss=sum(losses) / len(losses) if losses else None,
        validation_loss=validations[max(validations)] if validations else None,
    )


def other_run(job: Job) -> str | None:
    """One line that names the run folder of a job and says how the run in it differs; None: it does not, or there is
    no run."""
    run = RunFolder(job.run_folder)
    if not run.config.exists():
        return None
    try:
        stored = from_dict(read_json(run.config)["resolved"], where=str(run.config))
        stored_fields = identity(completed(stored, where=str(run.config)))
    except (ValueError, AttributeError, KeyError) as error:  # the last two: JSON of another shape
        return f"{run.root} holds another run: its config.json cannot be used: {error}"
    changed = [
        f"{field} {stored_fields[field]!r}, here {here!r}"
        for field, here in identity(job.resolved).items()
        if stored_fields[field] != here
    ]
    return f"{run.root} holds another run: {', '.join(changed)}" if changed else None


def _failure(submission: Submission) -> str:
    how = submission.ended or "ended"
    if submission.exit_status:
        how += f", exit status {submission.exit_status}"
    if submission.exit_status == os.EX_TEMPFAIL:  # RESUMABLE of the supervisor
        how += " (the run can be resumed from its newest checkpoint)"
    complaint = _complaint(submission)
    log = f"; log: {submission.log}" if submission.log else ""
    return how + (f": {complaint}" if complaint else "") + log


def _complaint(submission: Submission) -> str:
    """Returns what `muloco train` wrote at the end of a job's log about a config that it could not use."""
    log = Path(submission.log)
    if not submission.log or not log.is_file():
        return ""
    lines = [line.decode(errors="replace") for line in last_lines(log)[-20:]]
    messages = [line for line in lines if line.startswith("muloco: ") and line != "muloco: stopped"]
    return messages[-1].removeprefix("muloco: ") if messages else ""
