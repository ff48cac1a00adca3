"""The actions of `muloco sweep` on the jobs of a sweep: list them, submit them, run them here, or show their states."""

import dataclasses
from dataclasses import dataclass
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


@dataclass
class Actions:
    """The actions on one sweep. Each of them prints what it has done, and returns the exit status: 0, or 1 if a job
    cannot be used or has failed."""

    expansion: Expansion
    folder: SweepFolder
    settings: Settings
    """Settings to keep in the folder."""
    profile: ClusterProfile
    console: Console

    def list_jobs(self) -> int:
        """Writes the scripts and lists the jobs."""
        written, left = self._write()
        jobs = self.expansion.jobs
        if jobs:
            self.console.print(listing.table(listing.COLUMNS, list(map(listing.row, jobs)), width=self.console.width))
        self._print(listing.origins_of(jobs))
        self._warn()
        largest = self._nodes_of_largest()
        size = f"; the largest job has {largest} node{'s' * (largest != 1)}" if jobs else ""
        return self._conclude(left, f"{len(written)} scripts in {self.folder.root}{size}")

    def submit_jobs(self, *, retry: bool) -> int:
        """Writes the scripts and submits them, with `retry` also those of jobs that have failed too often. Raises
        `slurm.SlurmError` if SLURM does not answer, or refuses a script."""
        self._check_length()
        written, left = self._write()
        self._warn()
        with naming("log_folder"):
            Path(self.profile.log_folder).mkdir(parents=True, exist_ok=True)
        outcome = submit(written, self.folder, profile=self.profile, console=self.console, retry=retry)
        done = f"{len(outcome.submitted)} submitted, {len(outcome.there)} queued, running or done before"
        return self._conclude(left | outcome.left, done)

    def run_here(self, *, at_once: int) -> int:
        """Runs the jobs on this machine, without SLURM and without scripts, `at_once` of them at the same time."""
        self._check_length()
        self.folder.settings = self.settings  # so that `status` knows where the runs are
        try:
            self.folder.save()
        except OSError as error:
            raise UserError(f"the settings of the sweep cannot be written: {error}; choose another --folder") from None
        jobs = self.expansion.jobs
        foreign = {job.name: reason for job in jobs if (reason := other_run(job)) is not None}
        own = [job for job in jobs if job.name not in foreign]
        before = len(own) - len(unfinished(own))
        failed = run_tasks(
            lambda: map(training, unfinished(own)),
            at_once=at_once,
            threads=max(1, usable_cores() // at_once),
            console=self.console,
        )
        done = len(own) - len(unfinished(own))
        return self._conclude(foreign | failed, f"{done} of {len(jobs)} runs are done, {before} of them before")

    def show_status(self, *, details: bool) -> int:
        """Shows the state of each job, and with `details` what SLURM says if it does not answer."""
        queue = None
        try:
            queue = slurm.queue()
        except slurm.SlurmError as error:
            line = f"SLURM does not answer ({error.what}); the states are from the run folders"
            self._print([line + (f": {error}" if details else "")], style="yellow")
        jobs = self.expansion.jobs
        states = {job.name: state_of(job, self.folder, queue) for job in jobs}
        if self.folder.root.exists():
            self.folder.save()
        at = {job.name: progress(RunFolder(job.run_folder)) for job in jobs}
        if jobs:
            self.console.print(listing.status_table(jobs, states, at, width=self.console.width))
        self._print(listing.remarks(self.expansion))
        self.console.print(listing.counts(states.values()))
        taken = any(state.kind == Kind.TAKEN for state in states.values())
        return 1 if self.expansion.refused or taken else 0

    def _check_length(self) -> None:
        """Raises UserError if the data is too short for the runs that are left."""
        if reason := listing.too_little_text(unfinished(self.expansion.jobs)):
            raise UserError(f"nothing was started: {reason}")

    def _write(self) -> tuple[list[Job], dict[str, str]]:
        """Writes the scripts and the state of the sweep, and shows the cluster, whose node limit is known from now on.
        Returns the jobs whose scripts are as they should be, and by name why others are not."""
        with naming("--folder"):
            written, left = write_scripts(self.expansion.jobs, self.folder, self.profile)
            self.folder.settings = self.settings
            self.folder.save()
        limit = self.profile.nodes_together(self._nodes_of_largest())
        self.profile = dataclasses.replace(self.profile, node_limit=limit)
        self._print([f"cluster: {self.profile.describe()}"])
        return written, left

    def _nodes_of_largest(self) -> int:
        return max((job.nodes for job in self.expansion.jobs), default=0)

    def _warn(self) -> None:
        self._print(listing.warnings(self.expansion.jobs, self.profile), style="yellow")

    def _conclude(self, left: dict[str, str], done: str) -> int:
        """Shows which jobs were left out and why, and returns the exit status."""
        for line in [*listing.remarks(self.expansion), *(f"left: {name}: {reason}" for name, reason in left.items())]:
            self._print([line], style="red" if line.startswith(("refused", "left")) else None)
        problems = len(self.expansion.refused) + len(left)
        self._print([done + (f"; {problems} not usable, see above" if problems else "")])
        return 1 if problems else 0

    def _print(self, lines: list[str], style: str | None = None) -> None:
        for line in lines:
            self.console.print(line, style=style, soft_wrap=True)
