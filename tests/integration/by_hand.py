"""Workers that a test starts one by one at a lighthouse of its own, and watches by their metrics."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from muloco.launch.lighthouse import start_lighthouse
from muloco.runs.folder import RunFolder, read_lines

from .runs import TINY
from .waiting import wait_until

SECRET = "a secret of the workers of a test"
SETTINGS = {
    **TINY,
    "training.steps": 100_000,
    "training.global_batch_size": 6,
    "training.local_batch_size": 1,
    "checkpoint.enable": False,
    "fault_tolerance.sync_steps": 4,
    "fault_tolerance.straggler_timeout_seconds": 5,
    "fault_tolerance.heartbeat_timeout_seconds": 2,
    "fault_tolerance.exchange_timeout_seconds": 10,
}
HOOK = """
import sys

if "worker" in sys.orig_argv:
    import time
    import muloco.outer.wire.torchft
    from muloco.failpoints import on_hit

    muloco.outer.wire.torchft.WAITING_SECONDS = 1.0

    def pace(phase):
        if phase == "inner_step":
            time.sleep(0.05)

    on_hit(pace)
"""
"""They say soon that they wait, and do not rush through their steps."""


class Workers:
    """Of runs that meet at one lighthouse."""

    def __init__(self, outputs: Path, address: str, interface: str = "lo"):
        """
        Args:
            outputs: folder of the runs.
            address: of the lighthouse.
            interface: network interface of gloo.
        """
        self.outputs = outputs
        self._interface = interface
        self._address = address
        self._processes: list[subprocess.Popen] = []
        hook = outputs / "hook"
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(HOOK)
        self._path = f"{hook}:{os.environ.get('PYTHONPATH', '')}"

    def start(self, worker: int, run: str = "run", **overrides: Any) -> subprocess.Popen:
        values = {**SETTINGS, **{key.replace("__", "."): value for key, value in overrides.items()}}
        values = {"run.outputs": str(self.outputs), **values, "run.name": run, "fault_tolerance.replica_id": worker}
        words = [word for key, value in values.items() for word in (f"--{key}", str(value))]
        with self.log(worker, run).open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "muloco", "worker", "config/laptop/muloco.py", *words],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "PYTHONPATH": self._path,
                    "TORCHFT_LIGHTHOUSE": self._address,
                    "MULOCO_SECRET": SECRET,
                    "GLOO_SOCKET_IFNAME": self._interface,
                    "OMP_NUM_THREADS": "1",
                },
            )
        self._processes.append(process)
        return process

    def log(self, worker: int, run: str = "run") -> Path:
        return self.outputs / f"{run}-{worker}.log"

    def lines(self, run: str = "run", **having: Any) -> list[dict[str, Any]]:
        """Metrics lines of all its workers with these values, in the order written."""
        files = RunFolder(self.outputs / run).metrics_files().values()
        lines = [line for path in files for line in read_lines(path)]
        return sorted((m for m in lines if all(m.get(k) == v for k, v in having.items())), key=lambda m: m["time"])

    def wait_for_sync(self, of: set[int], run: str = "run") -> dict[str, Any]:
        """Waits for a new sync in which just these workers take part."""
        now = time.time()

        def found() -> list[dict[str, Any]]:
            syncs = self.lines(run, event="sync")
            return [m for m in syncs if m["time"] > now and set(map(int, m["weights"])) == of]

        return wait_until(found, f"no sync of workers {of}", self.outputs)[0]

    def end(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


@contextmanager
def workers(outputs: Path, *, least: int = 1) -> Iterator[Workers]:
    """A lighthouse without workers."""
    child, address = start_lighthouse(
        workers=least, log=outputs / "lighthouse.log", heartbeat_timeout=2.0, join_timeout=5.0
    )
    started = Workers(outputs, address)
    try:
        yield started
    finally:
        started.end()
        child.end(grace_seconds=5)
