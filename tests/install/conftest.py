"""Machines without and with an environment."""

import subprocess
import sys
from pathlib import Path

import pytest

from .machine import Machine, script


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def installed(machine: Machine) -> Machine:
    """A machine with an environment, real but for its `muloco`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", machine.checkout / ".venv"], check=True)
    script(machine.checkout / ".venv/bin/muloco", "#!/bin/sh\necho muloco ran\n")
    return machine
