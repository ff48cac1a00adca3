"""Runs whose workers are each in a namespace of a shaped network, started one by one with `muloco worker`."""

import queue
import re
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from shaped_link import Network
from training_runs import environment, muloco, wait

from muloco.training.run_folder import RunFolder

LIGHTHOUSE_PORT = 29510
START_SECONDS = 60


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
                environment={**environment(threads), "TORCHFT_LIGHTHOUSE": address, "RUST_LOG": "warn"},
            )
        )
    wait(children)
    return RunFolder(outputs / name)


def start_lighthouse(network: Network, workers: int, log: Path) -> str:
    """In the first worker's namespace, where every port is free; returns its address."""
    program = Path(sys.executable).parent / "torchft_lighthouse"
    found = str(program) if program.exists() else shutil.which("torchft_lighthouse")
    if found is None:
        raise RuntimeError("torchft_lighthouse is not installed; it comes with torchft: pip install torchft")
    lines: queue.Queue[str] = queue.Queue()
    bind = f"{network.address(0)}:{LIGHTHOUSE_PORT}"
    child = network.spawn(
        0, [found, "--bind", bind, "--min_replicas", str(workers)], log=log, environment={}, on_line=lines.put
    )
    deadline = time.monotonic() + START_SECONDS
    while child.status is None and time.monotonic() < deadline:
        try:
            line = lines.get(timeout=0.1)
        except queue.Empty:
            continue
        if re.search(r"listening on", line):
            return f"http://{bind}"
    raise RuntimeError(f"the lighthouse did not come up; see {log}")
