"""The examples of docs/optimizers.md, run as they stand."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from muloco.resolve import resolve
from muloco.settings.load import flatten, load_config

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "optimizers.md").read_text()
EXAMPLES = dict(
    zip(
        ["loop", "groups", "gpa", "trainer", "accelerate", "lightning"],
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


def test_the_trainer_trains(tmp_path):
    last = float(run("trainer", tmp_path).splitlines()[-1])
    assert last < 3.5, "ln 128 = 4.85 before training"


def test_accelerate_trains(tmp_path):
    assert float(run("accelerate", tmp_path)) < 3.5, "ln 100 = 4.6 before training"


@pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="needs lightning")
def test_lightning_trains(tmp_path):
    assert float(run("lightning", tmp_path).splitlines()[-1]) < 3.5, "ln 100 = 4.6 before training"


def test_the_command_and_its_fields_are_there():
    """As the command line reads it; unknown fields and mixtures that make no sense would be refused."""
    (command,) = re.findall(r"^```bash\n(.*?)^```$", TEXT, re.M | re.S)
    words = shlex.split(command.replace("\\\n", ""))
    assert words[:2] == ["muloco", "train"]
    optimizer = resolve(load_config(words[2], words[3:])).optimizer
    assert (optimizer.embedding.rule, optimizer.embedding.lr_factor) == ("lion", 0.1)
    assert (optimizer.scalar.weight_decay_factor, optimizer.orthogonalization_steps) == (0, 4)
    fields = re.findall(r"^\| `optimizer\.(.*?)` \|", TEXT, re.M)
    described = {name.replace("ROLE", role) for name in fields for role in optimizer.roles()}
    assert described <= flatten(optimizer).keys() and len(described) == 3 * 4 + 3


def test_the_table_of_speed_is_the_committed_one():
    for flavor in ("150M", "416M"):
        result = json.loads((ROOT / "results" / "muon" / f"{flavor}.json").read_text())
        ours, torchs, adamw = (result["optimizers"][name] for name in ("muloco Muon", "torch Muon", "torch AdamW"))
        cells = [f"{row['milliseconds']:.0f} ms, {row['share_of_gemm_rate']:.2f}" for row in (ours, torchs)]
        cells.append(f"{adamw['milliseconds']:.0f} ms")
        cells += [f"{result['orthogonality'][name]['rms_error']:.3f}" for name in ("muloco Muon", "torch Muon")]
        assert f"| {flavor} | {' | '.join(cells)} |" in TEXT


def test_the_table_of_peers_is_the_committed_one():
    names = ["torch Muon", "muon-optimizer", "pytorch_optimizer", "optimuon", "heavyball"]
    for flavor in ("150M", "416M"):
        result = json.loads((ROOT / "results" / "muon" / f"{flavor}.json").read_text())
        cells = [result["optimizers"][name]["time_beside_ours"] for name in names]
        cells += [result["share_of_gemm_rate"][name] for name in ("plain_products", "and_two_passes")]
        assert f"| {flavor} | {' | '.join(f'{cell:.2f}' for cell in cells)} |" in TEXT
