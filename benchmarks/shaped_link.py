"""A network on one machine whose links carry no more than a given rate: one network namespace a worker.

    with shaped_network(2, megabits=100) as network:
        network.spawn(0, ["python", "work.py"], log=..., environment=...)
        network.measured_megabits()

Every worker's namespace is joined by a veth pair to a bridge in a namespace of its own. A token bucket filter (tbf) on
both ends of each pair shapes what the worker sends and what it receives. Needs root, iproute2 and a kernel with network
namespaces. Rates are in 10^6 bits/s. The kernel's tbf shapes the rate alone: there is no latency and no loss.
"""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from muloco.launch.processes import Child

INTERFACE = "eth0"
"""Name of a worker's interface within its namespace."""
SUBNET = "10.77.0"
QUEUE = "50ms"
"""Longest that a packet waits in a filter before it is dropped."""
LEAST_BURST, BURST_SECONDS = 64 * 1024, 0.004
"""A filter lets through this many bytes at once, or those of so many seconds."""
PROBE_SECONDS = 1.0
"""About how long the measurement of a link takes."""
_numbers = itertools.count()


class CannotShape(RuntimeError):
    """This machine does not allow shaped links; the message says why."""


def tbf(device: str, megabits: float) -> list[str]:
    """The command that shapes what leaves through `device`, within its namespace."""
    burst = max(LEAST_BURST, int(megabits * 1e6 / 8 * BURST_SECONDS))
    rate = f"{round(megabits * 1e6)}bit"
    return ["tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", rate, "burst", f"{burst}b", "latency", QUEUE]


def why_impossible() -> str | None:
    """Why no link can be shaped here; None: it can."""
    if os.name != "posix" or not hasattr(os, "geteuid") or not Path("/proc/self/ns/net").exists():
        return "shaped links need Linux with network namespaces"
    if os.geteuid() != 0:
        return "shaped links need root: network namespaces are made with `ip netns add`"
    missing = [program for program in ("ip", "tc") if shutil.which(program) is None]
    if missing:
        return f"shaped links need iproute2, and {' and '.join(missing)} is not here: apt-get install iproute2"
    try:
        with shaped_network(1, megabits=100):
            return None
    except CannotShape as error:
        return str(error)


class Network:
    """Workers that reach each other over shaped links alone; made by `shaped_network`."""

    def __init__(self, workers: int, megabits: float | None):
        tag = f"shaped{os.getpid()}x{next(_numbers)}"
        self.namespaces = [f"{tag}w{worker}" for worker in range(workers)]
        self.megabits = megabits
        """Nominal rate of each link in each direction; None: as fast as the machine is."""
        self.switch = f"{tag}s"
        self._children: list[Child] = []

    def address(self, worker: int) -> str:
        """Under which the others reach this worker."""
        return f"{SUBNET}.{worker + 1}"

    def within(self, worker: int, command: Sequence[str]) -> list[str]:
        """The command as it runs in the worker's namespace."""
        return ["ip", "netns", "exec", self.namespaces[worker], *command]

    def spawn(
        self,
        worker: int,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] = lambda line: None,
    ) -> Child:
        """Starts a process in the worker's namespace; it ends with the network at the latest."""
        own = {"GLOO_SOCKET_IFNAME": INTERFACE, **(environment or {})}
        name = f"worker {worker}"
        child = Child(name, self.within(worker, command), log=log, environment=own, on_line=on_line)
        self._children.append(child)
        return child

    def measured_megabits(self, sender: int = 0, receiver: int = 1) -> float:
        """Measures the rate of a plain TCP connection from one worker to another, in 10^6 bits/s."""
        size = int((self.megabits or 8000) * 1e6 / 8 * PROBE_SECONDS)
        probe = [sys.executable, str(Path(__file__).with_name("link_probe.py"))]
        receive = subprocess.Popen(
            self.within(receiver, [*probe, "receive", self.address(receiver)]), stdout=subprocess.PIPE, text=True
        )
        assert receive.stdout is not None
        try:
            port = receive.stdout.readline().strip()
            send = [*probe, "send", self.address(receiver), port, str(size)]
            subprocess.run(self.within(sender, send), check=True, timeout=60)
            found = json.loads(receive.stdout.readline())
            receive.wait(timeout=10)
        finally:
            receive.kill()
            receive.wait()
        return found["bytes"] * 8 / found["seconds"] / 1e6

    def make(self) -> None:
        """Namespaces, bridge, pairs and filters."""
        for namespace in (self.switch, *self.namespaces):
            _run("ip", "netns", "add", namespace)
            _run("ip", "-n", namespace, "link", "set", "lo", "up")
        _run("ip", "-n", self.switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", self.switch, "link", "set", "bridge", "up")
        for worker, namespace in enumerate(self.namespaces):
            port = f"port{worker}"
            pair = ["type", "veth", "peer", "name", INTERFACE, "netns", namespace]
            _run("ip", "-n", self.switch, "link", "add", port, *pair)
            _run("ip", "-n", self.switch, "link", "set", port, "master", "bridge")
            _run("ip", "-n", self.switch, "link", "set", port, "up")
            _run("ip", "-n", namespace, "address", "add", f"{self.address(worker)}/24", "dev", INTERFACE)
            _run("ip", "-n", namespace, "link", "set", INTERFACE, "up")
            if self.megabits is not None:
                _run("ip", "netns", "exec", namespace, *tbf(INTERFACE, self.megabits))
                _run("ip", "netns", "exec", self.switch, *tbf(port, self.megabits))

    def remove(self) -> None:
        """Ends what was started in the namespaces and deletes them, with all that is in them."""
        for child in self._children:
            child.ask_to_end()
        for child in self._children:
            child.end(grace_seconds=5)
        for namespace in (*self.namespaces, self.switch):
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)


@contextlib.contextmanager
def shaped_network(workers: int, *, megabits: float | None) -> Iterator[Network]:
    """`workers` namespaces whose links carry `megabits` x 10^6 bits/s in each direction; None: unshaped.

    Raises:
        CannotShape: this machine does not allow it.
    """
    network = Network(workers, megabits)
    try:
        network.make()
        yield network
    finally:
        network.remove()


def _run(*command: str) -> None:
    try:
        finished = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise CannotShape(f"{command[0]} is not here: apt-get install iproute2") from None
    if finished.returncode:
        raise CannotShape(f"`{' '.join(command)}` is not possible here: {finished.stderr.strip()}")
