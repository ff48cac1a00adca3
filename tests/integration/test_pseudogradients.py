"""`muloco analyze pseudogradients` on a real run, whose own next steps are the oracle for one worker."""

import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ..patience import PATIENCE
from .runs import train

pytestmark = pytest.mark.integration

STEPS = 3


def bytes_below(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.full
def test_one_worker_goes_on_as_the_run_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = train(
        *(tmp_path, "run", "config/laptop/muon.py"),
        training__steps=5 + STEPS,
        checkpoint__interval=5,
        checkpoint__keep=0,
        optimizer__weight_decay=0.1,
        optimizer__matrix__lr_factor=0.5,
    )
    assert run.status == 0, run.output
    before = bytes_below(run.folder.root)

    out = tmp_path / "out"
    words = ["--workers", "2", "--steps", str(STEPS), "--out", str(out)]
    finished = subprocess.run(
        [sys.executable, "-m", "muloco", "analyze", "pseudogradients", str(run.folder.root), *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert finished.returncode == 0, finished.stderr
    assert bytes_below(run.folder.root) == before

    early, late = run.anchor(5), run.anchor(5 + STEPS)
    one, *two = (
        torch.load(out / "tensors" / "run-step5" / f"K{workers}-worker{worker}.pt")
        for workers, worker in ((1, 0), (2, 0), (2, 1))
    )
    assert len(one) == 14  # seven in each of two layers
    for name, tensor in one.items():
        assert torch.equal(tensor, early[f"anchor.{name}"] - late[f"anchor.{name}"])
        assert not torch.equal(two[0][name], two[1][name])

    with (out / "matrices.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 14
    for row in rows:
        cosine, whole = float(row["cosine"]), float(row["nuclear_norm"])
        assert cosine == pytest.approx(1, abs=1e-9) if row["workers"] == "1" else 0.1 < cosine < 0.999
        assert float(row["from_steps"]) + float(row["from_decay"]) == pytest.approx(whole, rel=1e-8)
        assert abs(float(row["from_decay"])) > 1e-6 * whole
        assert float(row["mean_norm"]) == pytest.approx(1, abs=0.1)  # Newton-Schulz
