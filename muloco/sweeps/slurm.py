"""The few questions that sweeps ask SLURM. Every call has a time limit; needs nothing but Python."""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from muloco.launch.placement.controller import ask_again

TIMEOUT_SECONDS = 60
"""How long SLURM may take to answer; a busy controller takes seconds."""
WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"})
"""States of jobs that have not begun, or not again. What else is in the queue has nodes."""
_FIELDS = ("%i", "%T", "%D", "%P", "%o", "%j")  # id, state, nodes, partition, script, name
_SEPARATOR = "\x1f"


class SlurmError(RuntimeError):
    """SLURM is not here, does not answer or refuses; the message is one line.

    Args:
        what: happened, in a few words, such as `squeue failed`.
        details: what SLURM says about it, or what to do.
    """

    def __init__(self, what: str, details: str = ""):
        super().__init__(f"{what}: {details}" if details else what)
        self.what = what


@dataclass(frozen=True, kw_only=True)
class Queued:
    """A job of this user that has not ended."""

    id: str
    name: str
    state: str
    """State of the job, such as PENDING or RUNNING."""
    nodes: int
    partition: str
    script: str
    """Path of the script that was submitted."""

    @property
    def waits(self) -> bool:
        return self.state in WAITING


def queue() -> list[Queued]:
    """All jobs of this user that have not ended, in all partitions."""
    output = _ask(["squeue", "--noheader", "--array", f"--user={os.getuid()}", f"--format={_SEPARATOR.join(_FIELDS)}"])
    jobs = []
    for line in output.splitlines():
        if _SEPARATOR not in line:
            continue  # a message of the site, not a job
        id_, state, nodes, partition, script, name = line.split(_SEPARATOR)
        jobs.append(Queued(id=id_, name=name, state=state, nodes=read_count(nodes), partition=partition, script=script))
    return jobs


def read_count(text: str) -> int:
    """Returns a number of nodes as squeue writes it: `4`, `1-4` for a job that takes at least one, `1.5K` for 1536.
    Raises SlurmError if it is not a number."""
    match = re.match(r"\s*(\d+(?:\.\d+)?)([KM]?)", text)
    if match is None:
        raise SlurmError(f"squeue gives {text!r} as the number of a job's nodes")
    return round(float(match[1]) * {"": 1, "K": 2**10, "M": 2**20}[match[2]])


def submit(script: Path) -> str:
    """Submits a script and returns the id of its job. It asks only once: a controller that does not answer
    (`muloco.launch.placement.controller.is_busy`) may have accepted the script nevertheless."""
    answer = _call(["sbatch", "--parsable", str(script)]).strip()
    ids = re.findall(r"^(\d+)(?:;\S*)?$", answer, flags=re.MULTILINE)
    if not ids:
        raise SlurmError(f"sbatch {script} answered {answer!r} instead of the id of a job")
    return ids[-1]


def ended(job: str) -> tuple[str, int] | None:
    """The last state of a job that is no longer in the queue, such as COMPLETED, FAILED, CANCELLED, TIMEOUT or
    NODE_FAIL, and its exit status; None: SLURM has forgotten the job, as it does after some minutes."""
    try:
        answer = _ask(["scontrol", "--oneliner", "show", "job", job])
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return None
        raise
    state = re.search(r"\bJobState=(\w+)", answer)
    status = re.search(r"\bExitCode=(\d+):", answer)
    return (state[1], int(status[1])) if state and status else None


def _ask(command: Sequence[str]) -> str:
    """The output of a query, which changes nothing and so may be repeated."""
    return ask_again(lambda: _call(command), SlurmError)


def _call(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except FileNotFoundError:
        raise SlurmError(
            f"there is no {command[0]} on this machine",
            "submit from a login node of the cluster, or use --dry-run, which needs no SLURM",
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not answer within {TIMEOUT_SECONDS} s", "try again later") from None
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise SlurmError(f"{command[0]} failed", reason)
    return done.stdout
