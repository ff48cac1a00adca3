"""A SLURM that exists in memory only: answers what `muloco.sweeps.slurm` asks, in the words of the real commands."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from muloco.sweeps.slurm import SlurmError


@dataclass
class FakeJob:
    id: str
    name: str
    script: str
    nodes: int
    partition: str = "main"
    state: str = "PENDING"
    exit_status: int = 0


class FakeSlurm:
    """Takes the place of `slurm._call`."""

    def __init__(self) -> None:
        self.jobs: list[FakeJob] = []
        self.forgotten: set[str] = set()
        self.before_sbatch: Callable[[], None] = lambda: None
        self.after_sbatch: Callable[[], None] = lambda: None
        self.most_nodes = 0
        """Most nodes that were asked for at the same time."""
        self._ids = itertools.count(1)

    def __call__(self, command: Sequence[str]) -> str:
        match command[0]:
            case "squeue":
                (format_,) = [word.removeprefix("--format=") for word in command if word.startswith("--format=")]
                return "".join(self._line(job, format_) + "\n" for job in self.queue)
            case "sbatch":
                self.before_sbatch()
                job = self.add(Path(command[-1]))
                self.after_sbatch()
                return f"{job.id}\n"
            case "scontrol":
                known = {job.id: job for job in self.jobs if job.id not in self.forgotten}
                if command[-1] not in known:
                    raise SlurmError("scontrol failed: slurm_load_jobs error: Invalid job id specified")
                job = known[command[-1]]
                return (
                    f"JobId={job.id} JobName={job.name} JobState={job.state} Reason=None ExitCode={job.exit_status}:0"
                )
        raise AssertionError(command)

    @property
    def queue(self) -> list[FakeJob]:
        return [job for job in self.jobs if job.state in ("PENDING", "RUNNING")]

    @property
    def names(self) -> list[str]:
        """Of all jobs ever submitted, in order."""
        return [job.name for job in self.jobs]

    def add(self, script: Path, *, partition: str = "main") -> FakeJob:
        options = dict(
            line.removeprefix("#SBATCH --").split("=", 1)
            for line in script.read_text().splitlines()
            if line.startswith("#SBATCH --") and "=" in line
        )
        job = FakeJob(
            str(next(self._ids)),
            options["job-name"],
            str(script),
            int(options["nodes"]),
            options.get("partition", partition),
        )
        self.jobs.append(job)
        self.most_nodes = max(self.most_nodes, sum(job.nodes for job in self.queue))
        return job

    def end(self, name: str, state: str = "COMPLETED", exit_status: int = 0) -> None:
        job = next(job for job in reversed(self.jobs) if job.name == name)
        job.state, job.exit_status = state, exit_status

    @staticmethod
    def _line(job: FakeJob, format_: str) -> str:
        fields = {"%i": job.id, "%T": job.state, "%D": job.nodes, "%P": job.partition, "%o": job.script, "%j": job.name}
        for code, value in fields.items():
            format_ = format_.replace(code, str(value))
        return format_
