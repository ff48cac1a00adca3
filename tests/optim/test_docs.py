"""The examples of docs/optimizers.md, run as they stand."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "optimizers.md").read_text()
EXAMPLES = dict(
    zip(
        ["loop", "groups", "gpa", "fused", "trainer", "accelerate", "lightning"],
        re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S),
        strict=True,
    )
)


def run(name, tmp_path):
    return subprocess.run(
        [sys.executable, "-c", EXAMPLES[name]],
        cwd=tmp_path,
        env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_the_plain_loop_trains(tmp_path):
    out = run("loop", tmp_path)
    assert "muon (matrix): 1 parameters, 2,048 elements" in out
    assert "adamw (embedding): 1 parameters, 3,200 elements" in out
    assert "adamw (head): 1 parameters, 6,400 elements" in out
    before, after = (float(line.split()[1]) for line in out.splitlines() if re.match(r"\d+ \d", line))
    assert before > 4 and after < 0.7 * before


def test_groups_step(tmp_path):
    run("groups", tmp_path)


def test_the_average_learns(tmp_path):
    (loss,) = run("gpa", tmp_path).split()
    assert float(loss) < 0.01, "about 1.3 before training"


def test_fused_projections_are_split(tmp_path):
    lines = run("fused", tmp_path).splitlines()
    assert "    layers.*.wqkv.weight [128, 64] as 6 of [16, 64], [32, 64] x 2" in lines
    assert "    layers.*.experts.w1 [4, 96, 64] as 4 of [96, 64] x 2" in lines
    assert {"    layers.1.router.weight [4, 64]", "    layers.0.router.weight [4, 64]"} <= {*lines}


@pytest.mark.full
def test_the_trainer_trains(tmp_path):
    last = float(run("trainer", tmp_path).splitlines()[-1])
    assert last < 3.5, "ln 128 = 4.85 before training"


@pytest.mark.full
def test_accelerate_trains(tmp_path):
    assert float(run("accelerate", tmp_path)) < 3.5, "ln 100 = 4.6 before training"


@pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="needs lightning")
def test_lightning_trains(tmp_path):
    assert float(run("lightning", tmp_path).splitlines()[-1]) < 3.5, "ln 100 = 4.6 before training"
