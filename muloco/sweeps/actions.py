"""The actions of `muloco sweep` on the jobs of a sweep: list them, submit them, run them here, or show their states.

Each function prints what it has done, and returns the exit status: 0, or 1 if a job cannot be used or has failed.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from muloco.cores import usable_cores
from muloco.errors import UserError, naming
from muloco.runs.folder import RunFolder
from muloco.sweeps import listing, slurm
from muloco.sweeps.cluster import ClusterProfile
from muloco.sweeps.expand import Expansion, Job
from muloco.sweeps.folder import SweepFolder
from muloco.sweeps.local import run_tasks, training, unfinished
from muloco.sweeps.script import write_scripts
from muloco.sweeps.settings import Settings
from muloco.sweeps.state import Kind, other_run, progress, state_of
from muloco.sweeps.submit import submit


def list_jobs(
    expansion: Expansion, folder: SweepFolder, settings: Settings, profile: ClusterProfile, console: Console
) -> int:
    """Writes the scripts and lists the jobs."""
    written, left, profile = _write(expansion, folder, settings, profile, console)
    if expansion.jobs:
        console.print(listing.jobs_table(expansion.jobs, width=console.width))
    for line in listing.origins_of(expansion.jobs):
        console.print(line, soft_wrap=True)
    _warn(expansion.jobs, profile, console)
    largest = _nodes_of_largest(expansion)
    size = f"; the largest job has {largest} node{'s' * (largest != 1)}" if expansion.jobs else ""
    return _conclude(expansion, left, f"{len(written)} scripts in {folder.root}{size}", console)


def submit_jobs(
    expansion: Expansion,
    folder: SweepFolder,
    settings: Settings,
    profile: ClusterProfile,
    console: Console,
    *,
    retry: bool,
) -> int:
    """Writes the scripts and submits them.

    Args:
        retry: also submit jobs that have failed too often.

    Raises:
        slurm.SlurmError: SLURM does not answer, or refuses a script.
    """
    _check_length(expansion)
    written, left, profile = _write(expansion, folder, settings, profile, console)
    _warn(expansion.jobs, profile, console)
    with naming("log_folder"):
        Path(profile.log_folder).mkdir(parents=True, exist_ok=True)
    outcome = submit(written, folder, profile=profile, console=console, retry=retry)
    done = f"{len(outcome.submitted)} submitted, {len(outcome.there)} queued, running or done before"
    return _conclude(expansion, left | outcome.left, done, console)


def run_here(expansion: Expansion, folder: SweepFolder, settings: Settings, console: Console, *, at_once: int) -> int:
    """Runs the jobs on this machine, without SLURM and without scripts, `at_once` of them at the same time."""
    _check_length(expansion)
    folder.settings = settings  # so that `status` knows where the runs are
    try:
        folder.save()
    except OSError as error:
        raise UserError(f"the settings of the sweep cannot be written: {error}; choose another --folder") from None
    foreign = {job.name: reason for job in expansion.jobs if (reason := other_run(job)) is not None}
    own = [job for job in expansion.jobs if job.name not in foreign]
    before = len(own) - len(unfinished(own))
    failed = run_tasks(
        lambda: map(training, unfinished(own)),
        at_once=at_once,
        threads=max(1, usable_cores() // at_once),
        console=console,
    )
    done = len(own) - len(unfinished(own))
    return _conclude(
        expansion, foreign | failed, f"{done} of {len(expansion.jobs)} runs are done, {before} of them before", console
    )


def show_status(expansion: Expansion, folder: SweepFolder, console: Console, *, details: bool) -> int:
    """Shows the state of each job.

    Args:
        details: also show what SLURM says if it does not answer.
    """
    queue = None
    try:
        queue = slurm.queue()
    except slurm.SlurmError as error:
        told = f"SLURM does not answer ({error.what}); the states are from the run folders"
        console.print(told + (f": {error}" if details else ""), style="yellow", soft_wrap=True)
    states = {job.name: state_of(job, folder, queue) for job in expansion.jobs}
    if folder.root.exists():
        folder.save()
    at = {job.name: progress(RunFolder(job.run_folder)) for job in expansion.jobs}
    if expansion.jobs:
        console.print(listing.status_table(expansion.jobs, states, at, width=console.width))
    for line in listing.remarks(expansion):
        console.print(line, soft_wrap=True)
    console.print(listing.counts(states.values()))
    return 1 if expansion.refused or any(state.kind == Kind.TAKEN for state in states.values()) else 0


def _check_length(expansion: Expansion) -> None:
    """Raises UserError if the data is too short for the runs that are left."""
    if reason := listing.too_little_text(unfinished(expansion.jobs)):
        raise UserError(f"nothing was started: {reason}")


def _write(
    expansion: Expansion, folder: SweepFolder, settings: Settings, profile: ClusterProfile, console: Console
) -> tuple[list[Job], dict[str, str], ClusterProfile]:
    """Writes the scripts and the state of the sweep, and shows the cluster.

    Returns:
        the jobs whose scripts are as they should be; by name why others are not; and the profile with its node limit.
    """
    with naming("--folder"):
        written, left = write_scripts(expansion.jobs, folder, profile)
        folder.settings = settings
        folder.save()
    profile = dataclasses.replace(profile, node_limit=profile.nodes_together(_nodes_of_largest(expansion)))
    console.print(f"cluster: {profile.describe()}", soft_wrap=True)
    return written, left, profile


def _nodes_of_largest(expansion: Expansion) -> int:
    return max((job.nodes for job in expansion.jobs), default=0)


def _warn(jobs: Sequence[Job], profile: ClusterProfile, console: Console) -> None:
    for line in listing.warnings(jobs, profile):
        console.print(line, style="yellow", soft_wrap=True)


def _conclude(expansion: Expansion, left: dict[str, str], done: str, console: Console) -> int:
    """Shows which jobs were left out and why, and returns the exit status."""
    lines = [*listing.remarks(expansion), *(f"left: {name}: {reason}" for name, reason in left.items())]
    for line in lines:
        console.print(line, style="red" if line.startswith(("refused", "left")) else None, soft_wrap=True)
    problems = len(expansion.refused) + len(left)
    console.print(done + (f"; {problems} not usable, see above" if problems else ""), soft_wrap=True)
    return 1 if problems else 0
