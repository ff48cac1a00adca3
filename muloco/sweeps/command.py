"""`muloco sweep`: write and list the jobs of a sweep, submit them, or say where they stand."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from muloco.console import open_console
from muloco.cores import usable_cores
from muloco.errors import UserError, naming
from muloco.runs.folder import RunFolder
from muloco.sweeps import listing, slurm
from muloco.sweeps.cluster import ClusterProfile
from muloco.sweeps.expand import Expansion, Job, expand
from muloco.sweeps.files import find_sweep, load_sweep
from muloco.sweeps.folder import SweepFolder
from muloco.sweeps.local import run_tasks, training, unfinished
from muloco.sweeps.options import given_options
from muloco.sweeps.script import job_script
from muloco.sweeps.settings import Settings, by_option
from muloco.sweeps.state import Kind, other_run, progress, state_of
from muloco.sweeps.submit import submit

PROFILE = "cluster.toml"
"""The cluster profile next to the sweep, which is used where none is named."""
GENERATED = "generated_job_files"


def run_sweep(command: argparse.Namespace, words: Sequence[str], *, console: Console | None = None) -> int:
    """Runs the command.

    Args:
        command: with the options of `muloco sweep`.
        words: what is left of its command line: `status`, if it is there, and `--section.field value` for all jobs.
        console: where to write; None: standard output.

    Returns:
        exit status: 0; 1 where a job was refused or could not be submitted, another run is in its folder, or SLURM did
        not answer.

    Raises:
        UserError: the command line, the sweep's file or the cluster profile cannot be used.
    """
    console = console or open_console(work_behind=bool(command.here))
    status = list(words[:1]) == ["status"]
    words = words[1:] if status else words
    if words and not words[0].startswith("--"):
        raise UserError(f"muloco sweep FILE takes `status` or options; got {words[0]!r}")
    if status and (command.submit or command.dry_run or command.here):
        raise UserError("status cannot be combined with --submit, --here or --dry-run")
    if command.at_once < 1:
        raise UserError(f"--at-once is how many jobs run at the same time, 1 or more; got {command.at_once}")
    file = find_sweep(command.config)
    folder = SweepFolder(Path(command.folder or file.parent / GENERATED / file.stem).absolute())
    settings = _settings(command, words, file, folder, fresh=not (status or command.submit))
    profile = settings.cluster(beside=folder.root)
    found = expand(load_sweep(file), overrides=settings.words, profile=profile)
    try:
        if status:
            return _status(found, folder, console, details=command.verbose)
        if (command.here or command.submit) and (reason := listing.too_little_text(unfinished(found.jobs))):
            raise UserError(f"nothing was started: {reason}")
        if command.here:
            _remember(folder, settings)
            return _run(found, command.at_once, console)
        with naming("--folder"):
            written, left = write_scripts(found.jobs, folder, profile)
            folder.settings = settings
            folder.save()
        largest = max((job.nodes for job in found.jobs), default=0)
        profile = dataclasses.replace(profile, node_limit=profile.nodes_together(largest))
        console.print(f"cluster: {profile.describe()}", markup=False, soft_wrap=True)
        if not command.submit:
            if found.jobs:
                console.print(listing.jobs_table(found.jobs, width=console.width))
            for line in listing.origins_of(found.jobs):
                console.print(line, markup=False, soft_wrap=True)
            _warn(found.jobs, profile, console)
            size = f"; the largest job has {largest} node{'s' * (largest != 1)}" if found.jobs else ""
            return _conclude(found, left, f"{len(written)} scripts in {folder.root}{size}", console)
        _warn(found.jobs, profile, console)
        with naming("log_folder"):
            Path(profile.log_folder).mkdir(parents=True, exist_ok=True)
        outcome = submit(written, folder, profile=profile, console=console, retry=command.retry)
        done = f"{len(outcome.submitted)} submitted, {len(outcome.there)} queued, running or done before"
        return _conclude(found, left | outcome.left, done, console)
    except slurm.SlurmError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 1


def _run(found: Expansion, at_once: int, console: Console) -> int:
    """On this machine, without SLURM and without scripts."""
    foreign = {job.name: reason for job in found.jobs if (reason := other_run(job)) is not None}
    own = [job for job in found.jobs if job.name not in foreign]
    before = len(own) - len(unfinished(own))
    failed = run_tasks(
        lambda: map(training, unfinished(own)),
        at_once=at_once,
        threads=max(1, usable_cores() // at_once),
        console=console,
    )
    done = len(own) - len(unfinished(own))
    return _conclude(
        found, foreign | failed, f"{done} of {len(found.jobs)} runs are done, {before} of them before", console
    )


def _remember(folder: SweepFolder, settings: Settings) -> None:
    """Keeps the settings, so that `status` knows where the runs are."""
    folder.settings = settings
    try:
        folder.save()
    except OSError as error:
        raise UserError(f"the settings of the sweep cannot be written: {error}; choose another --folder") from None


def write_scripts(
    jobs: Sequence[Job], folder: SweepFolder, profile: ClusterProfile
) -> tuple[list[Job], dict[str, str]]:
    """Writes the scripts of jobs.

    Returns:
        the jobs whose scripts are as they should be, and by name why others are not.
    """
    written, refused = [], {}
    for job in jobs:
        if RunFolder(job.run_folder).summary.exists() and folder.script(job.name).exists():
            written.append(job)  # done: whatever its script looks like now
            continue
        text = job_script(job, profile)
        try:
            folder.write(job.name, text)
            written.append(job)
        except UserError as error:
            refused[job.name] = str(error)
    return written, refused


def _settings(
    command: argparse.Namespace, words: Sequence[str], file: Path, folder: SweepFolder, *, fresh: bool
) -> Settings:
    """As given; what is not given is as in the last `--dry-run`, unless this is one."""
    beside = file.parent / PROFILE
    given = Settings(
        profile=str(Path(command.profile).absolute()) if command.profile else None,
        options=given_options(command),
        overrides={option: _anchored(option, values) for option, values in by_option(words).items()},
    )
    settings = given if fresh else folder.settings.updated(given)
    return Settings(profile=str(beside)).updated(settings) if beside.is_file() else settings


def _anchored(option: str, values: list[str]) -> list[str]:
    """Paths as seen from any folder."""
    if option == "--run.outputs":
        return [str(Path(value).absolute()) for value in values]
    if option in ("--data.corpus", "--data.validation", "--data.tokenizer"):
        return [str(Path(value).absolute()) if Path(value).exists() else value for value in values]
    return values


def _warn(jobs: Sequence[Job], profile: ClusterProfile, console: Console) -> None:
    for line in listing.warnings(jobs, profile):
        console.print(line, style="yellow", markup=False, soft_wrap=True)


def _conclude(found: Expansion, left: dict[str, str], done: str, console: Console) -> int:
    """Says what was not done, and returns the exit status."""
    for line in [*listing.remarks(found), *(f"left: {name}: {reason}" for name, reason in left.items())]:
        console.print(line, style="red" if line.startswith(("refused", "left")) else None, markup=False, soft_wrap=True)
    problems = len(found.refused) + len(left)
    console.print(done + (f"; {problems} not usable, see above" if problems else ""), markup=False, soft_wrap=True)
    return 1 if problems else 0


def _status(found: Expansion, folder: SweepFolder, console: Console, *, details: bool) -> int:
    queue = None
    try:
        queue = slurm.queue()
    except slurm.SlurmError as error:
        told = f"SLURM does not answer ({error.what}); the states are from the run folders"
        console.print(told + (f": {error}" if details else ""), style="yellow", markup=False, soft_wrap=True)
    states = {job.name: state_of(job, folder, queue) for job in found.jobs}
    if folder.root.exists():
        folder.save()
    at = {job.name: progress(RunFolder(job.run_folder)) for job in found.jobs}
    if found.jobs:
        console.print(listing.status_table(found.jobs, states, at, width=console.width))
    for line in listing.remarks(found):
        console.print(line, markup=False, soft_wrap=True)
    console.print(listing.counts(states.values()))
    return 1 if found.refused or any(state.kind == Kind.TAKEN for state in states.values()) else 0
