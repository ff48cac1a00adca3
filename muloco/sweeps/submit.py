"""Submitting a sweep: within the node limit, each job once, and again what has failed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console

from muloco.launch.placement.controller import BUSY_SECONDS, is_busy
from muloco.runs.lock import only_one
from muloco.sweeps import slurm
from muloco.sweeps.cluster import ClusterProfile
from muloco.sweeps.expand import Job
from muloco.sweeps.folder import SweepFolder
from muloco.sweeps.state import Kind, State, fails_again, state_of

POLL_SECONDS = 30.0
"""How often the queue is asked while the sweep waits for room."""
MOST_TRIES = 3
"""How often the script of a job is submitted by itself; after that somebody has to look at it."""


@dataclass
class Outcome:
    """The results of a submission, by name of the job."""

    submitted: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    """Jobs that are queued, running or done already."""
    left: dict[str, str] = field(default_factory=dict)
    """Jobs that were not submitted, with the reason."""


def submit(
    jobs: Sequence[Job], folder: SweepFolder, *, profile: ClusterProfile, console: Console, retry: bool = False
) -> Outcome:
    """Submits all jobs that are neither in the queue nor done, in their order; waits while there is no room.

    Args:
        jobs: whose scripts are written.
        folder: of the sweep; every submission is in it before the next one begins.
        profile: of the cluster. Its `node_limit` is about the nodes that all of this user's jobs in its partition (in
            all partitions, where it has none) have or wait for together.
        retry: submit failed jobs also where they would fail again or have failed too often.

    Raises:
        slurm.SlurmError: SLURM does not answer, or refuses a script. What was submitted before is remembered.
        UserError: another process submits from this folder.
    """
    outcome = Outcome()
    with only_one(folder.root / ".submitting", f"another `muloco sweep --submit` works in {folder.root}"):
        for job in jobs:
            if profile.node_limit is not None and job.nodes > profile.node_limit:
                outcome.left[job.name] = f"takes {job.nodes} nodes, and the node limit is {profile.node_limit}"
                continue
            state = _room_for(job, folder, profile, console)
            if state.kind in (Kind.QUEUED, Kind.RUNNING, Kind.DONE):
                if state.kind != Kind.DONE:
                    _adopt(job, folder, state, profile, console)
                outcome.there.append(job.name)
            elif (reason := _reason_not_to(state, job, folder, retry)) is not None:
                outcome.left[job.name] = reason
            else:
                _submit(job, folder, profile, console)
                outcome.submitted.append(job.name)
        folder.save()
    return outcome


def _room_for(job: Job, folder: SweepFolder, profile: ClusterProfile, console: Console) -> State:
    """Where a job stands, once it need not be submitted or there is room for it."""
    limit, is_told = profile.node_limit, False
    with console.status("") as line:
        while True:
            queue = slurm.queue()
            state = state_of(job, folder, queue)
            taken = sum(queued.nodes for queued in queue if profile.partition in (None, *queued.partition.split(",")))
            if state.kind not in (Kind.NEW, Kind.FAILED) or limit is None or taken + job.nodes <= limit:
                return state
            waiting = f"{taken} of {limit} nodes are taken; {job.name} waits for {job.nodes}"
            line.update(f"{waiting}. Ctrl-C loses nothing: run --submit again to continue")
            if not is_told and not console.is_terminal:
                console.print(waiting, soft_wrap=True)
            is_told = True
            time.sleep(POLL_SECONDS)


def _adopt(job: Job, folder: SweepFolder, state: State, profile: ClusterProfile, console: Console) -> None:
    """Remembers a job whose submission was interrupted before it could be written down."""
    if all(submission.id != state.job for submission in folder.record(job.name).submissions):
        folder.submitted(job.name, state.job, log=_log(job, state.job, profile))
        console.print(f"{job.name}: job {state.job} is there already, and is taken for this one", soft_wrap=True)


def _reason_not_to(state: State, job: Job, folder: SweepFolder, retry: bool) -> str | None:
    if state.kind == Kind.TAKEN:
        return state.note
    tries = folder.record(job.name).tries
    if state.kind == Kind.FAILED and not retry:
        if tries and fails_again(tries[-1]):
            return f"it would fail again ({state.note}); change the sweep, or submit it again with --retry"
        if len(tries) >= MOST_TRIES:
            return f"failed {len(tries)} times ({state.note}); --retry submits it again"
    return None


def _submit(job: Job, folder: SweepFolder, profile: ClusterProfile, console: Console) -> None:
    id_ = _submit_patiently(job, folder)
    folder.submitted(job.name, id_, log=_log(job, id_, profile))
    tries = len(folder.record(job.name).tries)
    again = f", try {tries}" if tries > 1 else ""
    console.print(f"{job.name}: job {id_} on {job.nodes} node{'s' * (job.nodes > 1)}{again}", soft_wrap=True)


def _submit_patiently(job: Job, folder: SweepFolder) -> str:
    """Submits the script of a job; repeats it for some minutes while SLURM does not answer, unless the job is
    queued."""
    left = BUSY_SECONDS
    while True:
        try:
            return slurm.submit(folder.script(job.name))
        except slurm.SlurmError as error:
            if not is_busy(str(error)) or left <= 0:
                raise
        left -= POLL_SECONDS
        time.sleep(POLL_SECONDS)
        state = state_of(job, folder, slurm.queue())
        if state.kind in (Kind.QUEUED, Kind.RUNNING):
            return state.job


def _log(job: Job, id_: str, profile: ClusterProfile) -> str:
    return f"{profile.log_folder}/{job.name}-{id_}.out"
