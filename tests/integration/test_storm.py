"""A short storm: every phase is struck, and the run ends well (`benchmarks/storm.py` says what that means)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from muloco.failpoints import FAILPOINTS
from muloco.settings.load import CHECKOUT

from ..patience import PATIENCE

pytestmark = pytest.mark.integration


@pytest.mark.full
def test_a_short_storm_is_weathered(tmp_path: Path) -> None:
    program = [sys.executable, str(CHECKOUT / "benchmarks" / "storm.py"), "short", "--pace", "0.5", "--limit", "500"]
    storm = subprocess.run([*program, "--results", str(tmp_path)], capture_output=True, text=True, timeout=PATIENCE)
    # Status 1 with a result: all was weathered, but so slowly that commits came late or that much was lost of a run so
    # short. Timings decide no test.
    assert (tmp_path / "short.json").exists(), storm.stdout + storm.stderr
    result = json.loads((tmp_path / "short.json").read_text())
    assert result["mismatches"] == [] and all(sum(result["faults_by_phase"][phase].values()) for phase in FAILPOINTS)
