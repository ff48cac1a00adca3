"""The nodes of the SLURM job that this process is in, and how a program is started on them."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from muloco.errors import UserError
from muloco.launch.placement.controller import ask_again
from muloco.launch.placement.node import MARK

CONTAINER = "MULOCO_CONTAINER"
"""Environment variable: words before every command on a node, such as `apptainer exec --nv IMAGE`."""
FIRST_PORT, LAST_PORT = 10000, 32767
"""Ports for a job, below those that Linux gives to programs that ask for any port."""
PORTS = 64
"""Number of ports that a job has for itself."""
SECONDS = 120
"""Time limit in seconds for a command of SLURM, which otherwise counts as hanging."""


@dataclass(frozen=True, kw_only=True)
class Node:
    name: str
    address: str
    """Address at which other nodes reach it."""
    interface: str
    """Network interface of the address."""
    cores: int
    devices: int
    """Number of GPUs that the job has on the node."""


@dataclass(frozen=True, kw_only=True)
class Allocation:
    job: int
    nodes: tuple[Node, ...]
    container: tuple[str, ...] = ()

    @property
    def python(self) -> str:
        """The interpreter on the nodes: this one, or the first one in the container."""
        return "python" if self.container else sys.executable

    def port(self, index: int) -> int:
        """A port that no other job with a number near this one's uses; jobs may share nodes."""
        slots = (LAST_PORT + 1 - FIRST_PORT) // PORTS
        return FIRST_PORT + self.job % slots * PORTS + index % PORTS

    def start(self, nodes: range, *, name: str) -> tuple[str, ...]:
        """Returns the words before a command that is to run once on each of these nodes, counted from 0."""
        chosen = self.nodes[nodes.start : nodes.stop]
        return _srun([node.name for node in chosen], cores=min(n.cores for n in chosen), name=name, own=self.container)


def current_allocation(environment: Mapping[str, str] = os.environ) -> Allocation | None:
    """Returns the job that this process is in, or None if it is in none. Starts a short program on each of its nodes.
    Raises UserError if the nodes cannot be used."""
    if "SLURM_JOB_ID" not in environment or "SLURM_JOB_NODELIST" not in environment:
        return None
    job = environment["SLURM_JOB_ID"]
    if shutil.which("srun") is None:
        raise UserError(
            f"this is SLURM job {job}, but there is no srun here to start workers with; to stay on this machine: "
            "env -u SLURM_JOB_ID muloco train ..."
        )
    cores = read_cores(environment.get("SLURM_JOB_CPUS_PER_NODE", ""))
    names = _names(_output(["scontrol", "show", "hostnames", environment["SLURM_JOB_NODELIST"]]), count=len(cores))
    container = tuple(shlex.split(environment.get(CONTAINER, "")))
    python = "python" if container else sys.executable
    look = [*_srun(names, cores=1, name="look", own=container), python, "-m", "muloco.launch.placement.node", "look"]
    seen = _answers(_output(look))
    if missing := [name for name in names if name not in seen]:
        raise UserError(
            f"nodes of this job have not answered: {', '.join(missing)}; the command was: {shlex.join(look)}"
        )
    nodes = [Node(**seen[name], cores=count) for name, count in zip(names, cores, strict=True)]
    loopback = [node.address.startswith("127.") for node in nodes]
    if any(loopback) and not all(loopback):
        where = ", ".join(f"{node.name} {node.address} ({node.interface})" for node in nodes)
        raise UserError(
            f"these addresses cannot all reach each other: {where}; name the interface to use with GLOO_SOCKET_IFNAME"
        )
    return Allocation(job=int(job), nodes=tuple(nodes), container=container)


def read_cores(per_node: str) -> list[int]:
    """SLURM_JOB_CPUS_PER_NODE, such as `16(x2),8`, node by node."""
    groups = re.findall(r"(\d+)(?:\(x(\d+)\))?", per_node)
    return [int(cores) for cores, times in groups for _ in range(int(times or 1))]


def _names(answer: str, *, count: int) -> list[str]:
    """The names of the nodes, one per line, without other lines that `scontrol` may have printed."""
    names = [line.strip() for line in answer.splitlines() if re.fullmatch(r"\s*[\w.-]+\s*", line)]
    if len(names) != count:
        raise UserError(
            f"SLURM_JOB_CPUS_PER_NODE has {count} nodes, but `scontrol show hostnames` answers {answer.strip()!r}"
        )
    return names


def _answers(output: str) -> dict[str, dict[str, Any]]:
    """The answers of `muloco.launch.placement.node look` by node, from an output that may have other lines as well."""
    by_name = {}
    for answer in output.split(MARK)[1:]:
        with contextlib.suppress(ValueError):
            node, _ = json.JSONDecoder().raw_decode(answer)
            by_name[node["name"]] = node
    return by_name


def _srun(names: list[str], *, cores: int, name: str, own: tuple[str, ...]) -> tuple[str, ...]:
    nodes = (f"--nodes={len(names)}", f"--ntasks={len(names)}", "--ntasks-per-node=1", f"--nodelist={','.join(names)}")
    # steps share the nodes of the job, and the kernel decides which cores each of them gets
    sharing = ("--overlap", f"--cpus-per-task={cores}", "--cpu-bind=none")
    ending = ("--kill-on-bad-exit=1", "--wait=0", "--quit-on-interrupt")
    return ("srun", f"--job-name={name}", "--export=ALL", *nodes, *sharing, *ending, *own)


def _output(command: list[str]) -> str:
    """The output of a command, which is run again for some minutes while SLURM's controller does not answer."""

    def run() -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise UserError(f"SLURM did not answer within {SECONDS} s: {shlex.join(command)}") from None
        if done.returncode:
            reason = " ".join((done.stderr or done.stdout).split()[-60:])
            raise UserError(f"the nodes of this job cannot be used: {shlex.join(command)} failed: {reason}")
        return done.stdout

    return ask_again(run, UserError)
