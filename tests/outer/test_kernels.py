"""Triton kernels: on a CPU by Triton's interpreter, compiled for an H100, and how often and on how much they run."""

import os
import subprocess
import sys
from pathlib import Path


def test_in_triton_s_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", Path(__file__).parent / "interpreted.py"]
    run = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
