"""A sweep on this machine, without SLURM: run, asked for again, and taken up where a run was stopped."""

import subprocess
import sys
from pathlib import Path

import pytest

from muloco.runs.folder import RunFolder

from ..patience import PATIENCE
from .runs import TINY, Run

pytestmark = pytest.mark.integration

SWEEP = """
from muloco.sweeps.sweep import Grid, Sweep, product


def sweep():
    points = product({"optimizer.lr": [0.02, 0.04]})
    return Sweep(Grid(name="s", config="config/laptop/muloco.py", points=points))
"""


def sweep_here(folder: Path) -> tuple[int, str]:
    few = {"training.steps": 4, "fault_tolerance.sync_steps": 2, "fault_tolerance.transport": "in_process"}
    values = {**TINY, **few, "checkpoint.interval": 2, "checkpoint.keep": 0, "run.outputs": folder / "runs"}
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "muloco", "sweep", str(folder / "s.py"), "--here", "--at-once", "2", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_a_sweep_runs_here_each_run_once_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(SWEEP)
    status, said = sweep_here(tmp_path)
    assert status == 0 and "2 of 2 runs are done, 0 of them before" in said, said
    first, second = (
        Run(folder=RunFolder(tmp_path / "runs" / f"s_lr{lr}"), status=0, output="") for lr in ("0.02", "0.04")
    )
    assert f"s_lr0.02: held-out loss {first.summary()['validation_loss']:.4f}" in said
    assert first.summary()["steps"] == 4 and first.summary()["tokens"] == 4 * 8 * 64  # though 10 are between two lines
    assert first.summary()["validation_loss"] != second.summary()["validation_loss"]
    learned = second.learned()
    second.go_back_to(2)
    status, said = sweep_here(tmp_path)
    assert status == 0 and "2 of 2 runs are done, 1 of them before" in said and "s_lr0.02: held" not in said
    assert second.learned() == learned and {line["attempt"] for line in second.lines()} == {1, 2}
    assert [path.name for path in (tmp_path / "generated_job_files" / "s").iterdir()] == ["sweep.json"]
    status = subprocess.run(
        [sys.executable, "-m", "muloco", "sweep", str(tmp_path / "s.py"), "status"], capture_output=True, text=True
    )
    assert "2 done" in status.stdout, "where the runs are need not be said again"
