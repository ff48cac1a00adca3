"""A sweep on the smallest flavor, in a folder of its own, under a SLURM in memory."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from muloco.cli import main
from muloco.sweeps import slurm, submit

from .fake_slurm import FakeSlurm

SWEEP = """
from muloco.sweeps.sweep import Grid, Sweep, product


def sweep():
    points = product({"optimizer.lr": LRS})
    return Sweep(Grid(name="tiny", config="config/laptop/muloco.py", points=points))
"""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """SLURM, from now on; whoever waits for room finds that the oldest job has ended well."""
    found = FakeSlurm()

    def sleep(seconds: float) -> None:
        found.queue[0].state = "COMPLETED"

    monkeypatch.setattr(slurm, "_call", found)
    monkeypatch.setattr(submit, "time", SimpleNamespace(sleep=sleep))  # of this module alone: threads sleep, too
    return found


@pytest.fixture
def sweep_file(tmp_path: Path) -> Callable[[int], Path]:
    """Writes a sweep of so many jobs of one node each, and returns its file."""

    def write(jobs: int) -> Path:
        lrs = [round(0.01 * (index + 1), 4) for index in range(jobs)]
        (tmp_path / "many.py").write_text(SWEEP.replace("LRS", str(lrs)))
        return tmp_path / "many.py"

    return write


@pytest.fixture
def muloco(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """`muloco("sweep", file, ...)` is the exit status and all that was said; runs are below tmp_path/runs."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        status = main([*map(str, words), "--run.outputs", str(tmp_path / "runs")])
        said = capsys.readouterr()
        return status, " ".join((said.out + said.err).split())

    return run


@pytest.fixture
def quiet() -> Console:
    return Console(quiet=True)
