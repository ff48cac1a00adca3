"""Waits for what a run is to do, and shows on failure what the run has said."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..patience import PATIENCE

SECONDS = 600
"""A condition that takes longer never comes true."""
_LINES = 40
_SUFFIXES = (".out", ".err", ".log")


def wait_until(
    condition: Callable[[], Any],
    what: str,
    outputs: Path,
    process: subprocess.Popen | None = None,
    *,
    seconds: float = SECONDS,
) -> Any:
    """Waits until a condition is true, and returns its value.

    Args:
        condition: asked every 0.1 seconds.
        what: the complaint if it does not come true.
        outputs: the folder with all that the processes write; see `last_words`.
        process: the condition cannot come true once this process has ended.
        seconds: how long to wait.

    Raises:
        AssertionError: it does not come true. The message ends with the last words of the run.
    """
    deadline = time.monotonic() + seconds
    while True:
        status = None if process is None else process.poll()  # before the condition, which may still come true
        if found := condition():
            return found
        assert status is None, f"{what}; the run has ended with status {status}\n{last_words(outputs)}"
        assert time.monotonic() < deadline, f"{what}\n{last_words(outputs)}"
        time.sleep(0.1)


def wait_for_end(process: subprocess.Popen, outputs: Path) -> int:
    """Waits until a process has ended, and returns its exit status; see `wait_until`."""
    wait_until(lambda: process.poll() is not None, "it does not end", outputs, seconds=PATIENCE)
    return process.returncode


def last_words(outputs: Path) -> str:
    """The last lines of each console output and log in a folder: files with the suffix .out, .err or .log."""
    files = sorted(path for path in outputs.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
    return "\n".join(line for path in files for line in (f"--- {path.relative_to(outputs)}", *_end_of(path)))


def _end_of(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-_LINES:]
