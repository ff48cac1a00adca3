"""The short form of the catalogue of attacks (`benchmarks/attacks.py`): strangers' bytes at every port, bad lines in
every file, a second supervisor and a killed worker, against one live run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from muloco.settings.load import CHECKOUT

from ..patience import PATIENCE

pytestmark = pytest.mark.integration
FAMILIES = {"kills", "files", "two supervisors", "ports", "secret"}


@pytest.mark.full
def test_the_short_form_finds_nothing_that_hangs_or_is_lost(tmp_path: Path) -> None:
    program = [sys.executable, str(CHECKOUT / "benchmarks" / "attacks.py"), "short", "--limit", str(PATIENCE / 2)]
    played = subprocess.run(
        [*program, "--results", str(tmp_path)], capture_output=True, text=True, timeout=PATIENCE, cwd=CHECKOUT
    )
    assert played.returncode == 0, played.stdout + played.stderr
    record = [json.loads(line) for line in (tmp_path / "short.jsonl").read_text().splitlines()]
    attacks = [line for line in record if "attack" in line]
    assert {line["family"] for line in attacks} == FAMILIES
    assert all(set(line["verdicts"]) <= {"survived", "refused"} for line in attacks), played.stdout
