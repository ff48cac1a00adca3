"""Runs whose workers are each in a namespace of a shaped network, started one by one with `muloco worker`."""

import queue
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from shaped_link import Network
from training_runs import environment, muloco, wait

from muloco.launch.lighthouse import LISTENS
from muloco.runs.folder import RunFolder
from muloco.training.environment import LIGHTHOUSE, SECRET

LIGHTHOUSE_PORT = 29510
START_SECONDS = 60
RUN_SECRET = "a secret of workers in namespaces"


def train(network: Network, config: str, settings: Mapping[str, object], *, outputs: Path, threads: int) -> RunFolder:
    """Trains with one worker in each namespace and the lighthouse in the first.

    Args:
        network: of as many workers as the run has.
        config: config module.
        settings: overrides by name; `run.name` among them.
        outputs: folder for the run's.

    Raises:
        RuntimeError: a worker failed.
    """
    name, workers = str(settings["run.name"]), len(network.namespaces)
    logs = outputs / name / "logs"
    address = start_lighthouse(network, workers, logs / "lighthouse.log")
    children = []
    for worker in range(workers):
        own = {
            **settings,
            "run.outputs": outputs,
            "fault_tolerance.group_size": workers,
            "fault_tolerance.replica_id": worker,
            "fault_tolerance.host": network.address(worker),
        }
        children.append(
            network.spawn(
                worker,
                muloco("worker", config, own),
                log=logs / f"worker-{worker:03d}.log",
                environment={**environment(threads), LIGHTHOUSE: address, SECRET: RUN_SECRET, "RUST_LOG": "warn"},
            )
        )
    wait(children)
    return RunFolder(outputs / name)


def start_lighthouse(network: Network, workers: int, log: Path) -> str:
    """In the first worker's namespace, where every port is free; returns its address."""
    lines: queue.Queue[str] = queue.Queue()
    command = [
        *(sys.executable, "-m", "muloco", "lighthouse", "--host", network.address(0), "--port", str(LIGHTHOUSE_PORT)),
        *("--min_replica_size", str(workers), "--heartbeat_timeout_seconds", "5", "--straggler_timeout_seconds", "60"),
    ]
    child = network.spawn(0, command, log=log, environment={SECRET: RUN_SECRET}, on_line=lines.put)
    deadline = time.monotonic() + START_SECONDS
    while child.status is None and time.monotonic() < deadline:
        try:
            line = lines.get(timeout=0.1)
        except queue.Empty:
            continue
        if LISTENS in line:
            return line.partition(LISTENS)[2]
    raise RuntimeError(f"the lighthouse did not come up; see {log}")
