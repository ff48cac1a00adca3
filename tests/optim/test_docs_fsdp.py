"""The examples of docs/muon-with-fsdp.md, run as they stand, on two ranks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "muon-with-fsdp.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)


@pytest.mark.full
@pytest.mark.parametrize(("example", "lowered"), [(0, 0.5), (1, 0.9)])
def test_an_example_trains(tmp_path, example, lowered):
    (tmp_path / "train.py").write_text(EXAMPLES[example])
    finished = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    losses = [float(line.split()[1]) for line in finished.stdout.splitlines() if re.match(r"\d+ \d", line)]
    assert losses[-1] < lowered * losses[0]
    assert example or (tmp_path / "checkpoint" / ".metadata").exists()
