"""The torchft lighthouse of a run: where its workers find each other."""

import queue
import re
import shutil
import sys
import time
from pathlib import Path

from muloco.launch.processes import Child

START_SECONDS = 30


def start_lighthouse(
    *, workers: int, log: Path, heartbeat_timeout: float = 5.0, join_timeout: float = 60.0
) -> tuple[Child, str]:
    """Starts `torchft_lighthouse` on a free port of the loopback interface.

    Args:
        workers: fewest that make a quorum.
        log: file for its output.
        heartbeat_timeout: seconds without a sign of life after which a worker counts as dead.
        join_timeout: seconds that those who have come wait for one that is alive but late.

    Returns:
        the process and its address, `http://127.0.0.1:PORT`.

    Raises:
        RuntimeError: it did not come up; the message names its log.
    """
    lines: queue.Queue[str] = queue.Queue()
    command = [
        _program("torchft_lighthouse"),
        *("--bind", "127.0.0.1:0"),
        *("--min_replicas", str(workers)),
        *("--heartbeat_timeout_ms", str(round(1000 * heartbeat_timeout))),
        *("--join_timeout_ms", str(round(1000 * join_timeout))),
    ]
    child = Child("lighthouse", command, log=log, environment={}, on_line=lines.put)
    deadline = time.monotonic() + START_SECONDS
    while child.status is None and time.monotonic() < deadline:
        try:
            line = lines.get(timeout=0.1)
        except queue.Empty:
            continue
        if match := re.search(r"listening on: http://.*:(\d+)", line):
            return child, f"http://127.0.0.1:{match[1]}"
    child.end(grace_seconds=1)
    raise RuntimeError(f"the lighthouse did not come up within {START_SECONDS} s; see {log}")


def _program(name: str) -> str:
    """A program of this Python's environment, whether that is activated or not."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is not installed; it comes with torchft: pip install torchft")
    return found
