"""What a test that waits in vain says."""

import subprocess
import sys
from pathlib import Path

import pytest

from .waiting import wait_for_end, wait_until


def test_a_wait_in_vain_shows_the_end_of_every_log(tmp_path: Path) -> None:
    (tmp_path / "run" / "logs").mkdir(parents=True)
    (tmp_path / "run.out").write_text("".join(f"line {number}\n" for number in range(100)))
    (tmp_path / "run" / "logs" / "worker-001.log").write_bytes(b"the reason \xff\n")
    (tmp_path / "run" / "weights.bin").write_bytes(b"no text")
    with pytest.raises(AssertionError) as failure:
        wait_until(lambda: [], "it does not come", tmp_path, seconds=0)
    first, *lines = str(failure.value).splitlines()
    assert first == "it does not come" and "line 59" not in lines and "no text" not in lines
    assert lines[lines.index("line 60") :][:40] == [f"line {number}" for number in range(60, 100)]
    assert lines[lines.index("--- run/logs/worker-001.log") + 1] == "the reason \N{REPLACEMENT CHARACTER}"


def test_a_wait_for_a_run_that_has_ended_is_over(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    assert wait_for_end(process, tmp_path) == 3
    assert wait_until(lambda: "found", "it does not come", tmp_path, process) == "found"
    with pytest.raises(AssertionError, match="it does not come; the run has ended with status 3"):
        wait_until(lambda: False, "it does not come", tmp_path, process)
