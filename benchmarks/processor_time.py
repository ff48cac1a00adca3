"""Processor time of a run's workers, from its second inner step to a later one.

Other work on the machine disturbs it far less than wall time. It is read from /proc while the run goes on.
"""

import os
import re
from pathlib import Path

from muloco.runs.folder import RunFolder, read_metrics

PROGRAM = "plain_torchtitan.py"


class ProcessorTime:
    """Measures processor time; has to be asked to look regularly.

    Args:
        outputs: folder that holds the run's.
        name: of the run.
        workers: how many it has.
        last: inner step whose end ends the measurement; the end of the first one begins it.
        console: log of a run of torchtitan's own, which has no metrics file.
    """

    def __init__(self, outputs: Path, name: str, *, workers: int, last: int, console: Path | None = None):
        self._outputs, self._name, self._workers, self._last, self._console = outputs, name, workers, last, console
        self._processes: list[int] = []
        self._first: float | None = None
        self.seconds: float | None = None
        """Processor seconds of all workers together; None: not there yet."""

    def look(self) -> None:
        if self.seconds is not None:
            return
        step = self._step()
        if step >= 1 and self._first is None:
            self._processes = worker_processes(self._outputs, self._name)
            self._first = sum(map(used, self._processes))
        if step >= self._last and self._first is not None:
            self.seconds = sum(map(used, self._processes)) - self._first

    def _step(self) -> int:
        """The last inner step that all workers have done."""
        if self._console is not None:
            return newest_step(self._console.read_text())
        folder = RunFolder(self._outputs / self._name)
        done = {worker: 0 for worker in range(self._workers)}
        for line in read_metrics(folder):
            if "loss" in line:
                done[line["worker"]] = line["step"]
        return min(done.values())


def newest_step(console: str) -> int:
    """The last inner step on torchtitan's console."""
    return max((int(step) for step in re.findall(r"step: +(\d+) .*tps:", console)), default=0)


def worker_processes(outputs: Path, name: str) -> list[int]:
    """Ids of the processes that train a run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
        except OSError:
            continue  # it has ended meanwhile
        ours = "worker" in words and f"{outputs / name}/config.json" in words
        if ours or (any(word.endswith(PROGRAM) for word in words) and name in words and str(outputs) in words):
            found.append(int(path.parent.name))
    return found


def used(process: int) -> float:
    """Processor seconds of a process and all its threads so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
