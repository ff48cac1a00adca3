"""Ranks whose torchrun was killed end with it: they would go on writing beside those that take their place."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from muloco.runs.folder import RunFolder

from .runs import TINY
from .test_interruptions import MULOCO
from .waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.mark.full
def test_ranks_end_with_their_torchrun(tmp_path: Path) -> None:
    values = {
        **TINY,
        "training.steps": 1_000_000,
        "checkpoint.enable": False,
        "fault_tolerance.group_size": 1,
        "parallelism.data_parallel_shard_degree": 2,
        "run.name": "orphans",
        "run.outputs": str(tmp_path),
    }
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    torchrun = [sys.executable, "-m", "muloco.launch.torchrun", "60", "--rdzv-backend=loopback", "--nproc-per-node=2"]
    with (tmp_path / "torchrun.out").open("w") as output:
        process = subprocess.Popen(
            [*torchrun, "-m", "muloco", "worker", MULOCO, *words], stdout=output, stderr=subprocess.STDOUT
        )
    metrics = RunFolder(tmp_path / "orphans").metrics(0)
    ranks: list[int] = []
    try:
        wait_until(lambda: metrics.exists() and '"loss"' in metrics.read_text(), "it does not train", tmp_path, process)
        ranks = children(process.pid)
        assert len(ranks) == 2
        process.kill()
        process.wait()
        wait_until(lambda: not any(map(runs, ranks)), "the ranks go on", tmp_path)
    finally:
        process.kill()
        for rank in filter(runs, ranks):
            os.kill(rank, signal.SIGKILL)


def children(parent: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def runs(pid: int) -> bool:
    """Whether it is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
