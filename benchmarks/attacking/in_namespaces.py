"""Starts a lighthouse and workers, each worker in a network namespace, and disturbs the network on command.

`network_run.py` starts it in a user namespace. It reads commands from standard input, one a line, and answers each with
a line `answer: ...`. The end of the input ends everything.

    cut A B        drops worker A's packets to worker B
    off A, on A    takes worker A's link down, or up again
    heal           ends all losses of packets
    delay MS       delays every worker's packets by MS milliseconds
    probe PORTS    tries these ports (HOST:PORT ...) from a namespace of its own, without the secret
"""

import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from shaped_link import INTERFACE, Network, shaped_network

from attacking.live import muloco, words

LIGHTHOUSE_PORT = 29510
NOWHERE = "02:00:00:00:00:99"
"""An Ethernet address that nothing has: packets to it are lost silently."""


def start(network: Network, order: dict) -> None:
    logs, settings = Path(order["logs"]), dict(order["settings"])
    limits = {
        "--min_replica_size": 1,
        "--heartbeat_timeout_seconds": settings["fault_tolerance.heartbeat_timeout_seconds"],
        "--straggler_timeout_seconds": settings["fault_tolerance.straggler_timeout_seconds"],
    }
    host = network.address(0)
    command = muloco("lighthouse", "--host", host, "--port", str(LIGHTHOUSE_PORT))
    command += [str(word) for pair in limits.items() for word in pair]
    network.spawn(0, command, log=logs / "lighthouse.log", environment=dict(os.environ))
    for worker in range(order["workers"]):
        own = {**settings, "fault_tolerance.replica_id": worker, "fault_tolerance.host": network.address(worker)}
        network.spawn(
            worker,
            muloco("worker", order["config"], *words(own)),
            log=logs / f"worker-{worker:03d}.log",
            environment={**os.environ, "TORCHFT_LIGHTHOUSE": f"http://{host}:{LIGHTHOUSE_PORT}", "RUST_LOG": "warn"},
        )


class Links:
    """The links of a network, which can be cut."""

    def __init__(self, network: Network):
        self._network = network
        self._cut: list[tuple[int, int]] = []
        self._off: list[int] = []

    def cut(self, sender: int, receiver: int) -> str:
        neighbour = [self._network.address(receiver), "lladdr", NOWHERE, "dev", INTERFACE, "nud", "permanent"]
        self._cut.append((sender, receiver))
        return _ip("-n", self._network.namespaces[sender], "neigh", "replace", *neighbour)

    def off(self, worker: int) -> str:
        self._off.append(worker)
        return _ip("-n", self._network.switch, "link", "set", f"port{worker}", "down")

    def heal(self) -> str:
        for sender, receiver in self._cut:
            neighbour = [self._network.address(receiver), "dev", INTERFACE]
            _ip("-n", self._network.namespaces[sender], "neigh", "del", *neighbour)
        for worker in self._off:
            _ip("-n", self._network.switch, "link", "set", f"port{worker}", "up")
        self._cut, self._off = [], []
        return "done"

    def delay(self, milliseconds: int) -> str:
        for namespace in self._network.namespaces:
            qdisc = ["tc", "qdisc", "replace", "dev", INTERFACE, "root", "netem", "delay", f"{milliseconds}ms"]
            done = subprocess.run(["ip", "netns", "exec", namespace, *qdisc], capture_output=True, text=True)
            if done.returncode:
                return f"not possible: {done.stderr.strip().splitlines()[0]}"
        return "done"

    def probe(self, *ports: str) -> str:
        program = [sys.executable, str(Path(__file__).with_name("probe.py")), *ports]
        stranger = len(self._network.namespaces) - 1
        done = subprocess.run(self._network.within(stranger, program), capture_output=True, text=True, timeout=60)
        return done.stdout.strip() or f"not possible: {done.stderr.strip().splitlines()[-1:]}"


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    return "done" if done.returncode == 0 else f"not possible: {done.stderr.strip()}"


def main() -> None:
    order = json.loads(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)  # for the names of namespaces
    with shaped_network(order["workers"] + 1, megabits=None) as network:
        links = Links(network)
        start(network, order)
        for line in sys.stdin:
            what, *numbers = line.split()
            answer = getattr(links, what)(*(numbers if what == "probe" else map(int, numbers)))
            print(f"answer: {answer}", flush=True)


if __name__ == "__main__":
    main()
