"""A run off loopback, which strangers reach."""

import subprocess
import sys
from pathlib import Path

import pytest

from ..patience import PATIENCE

pytestmark = pytest.mark.integration
OWN_NETWORK = ["unshare", "--net", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
"""Nothing of the test outlives it, as all its processes end with the first one."""


@pytest.mark.full
def test_a_stranger_gets_nothing_and_the_run_goes_on(tmp_path: Path) -> None:
    """The run is in a network namespace of its own; see `off_loopback`."""
    try:
        allowed = subprocess.run([*OWN_NETWORK, "ip", "link", "set", "lo", "up"], capture_output=True)
    except FileNotFoundError as error:
        pytest.skip(f"this machine has no {error.filename}")
    if allowed.returncode:
        pytest.skip(f"this machine allows no network namespace: {allowed.stderr.decode()}")
    program = [sys.executable, "-m", "tests.integration.off_loopback", str(tmp_path)]
    finished = subprocess.run([*OWN_NETWORK, *program], capture_output=True, text=True, timeout=PATIENCE)
    logs = "".join(f"\n{path.name}:\n{path.read_text()[-3000:]}" for path in tmp_path.glob("*.log"))
    assert finished.returncode == 0, finished.stdout + finished.stderr + logs
