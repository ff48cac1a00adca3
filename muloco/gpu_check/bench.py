"""What a check gets: a device, sizes, a folder, and ways to run commands."""

import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from muloco.launch.processes import end_with_parent, exception_in, refusal_in
from muloco.training.load import CHECKOUT

Figures = dict[str, float | int | str]
"""What a check has measured, by a name that ends with the unit."""
T = TypeVar("T")
_OF_A_WORKER = re.compile(r"^workers?(?: \d+)? failed: .*$", re.M)
"""How `muloco train` says why it failed."""
_SHOWN = 300
"""Characters of the end of an output that a message quotes."""


class CheckFailed(Exception):
    """What was checked is not as it should be; the message says how it is."""


class NotHere(Exception):
    """It cannot be checked on this machine; the message says what is missing."""


def expect(condition: bool, message: str) -> None:
    """Raises CheckFailed with the message unless the condition holds."""
    if not condition:
        raise CheckFailed(message)


@dataclass(frozen=True)
class Bench:
    """Where a check works."""

    device: torch.device
    scratch: Path
    """A folder that all rows of one call share."""
    rehearsal: bool
    """Whether it runs on the CPU at a small size."""

    def size(self, real: T, rehearsal: T) -> T:
        """The first, or in a rehearsal the second."""
        return rehearsal if self.rehearsal else real

    def muloco(self, *words: str) -> str:
        """Runs a command of muloco in a process of its own; returns its output.

        Raises:
            CheckFailed: it failed.
        """
        return self.python("-m", "muloco", *words)

    def python(self, *words: str) -> str:
        """Runs Python with these words; returns its output.

        Raises:
            CheckFailed: it failed.
        """
        status, output = self.run(*words)
        if status:
            told = _OF_A_WORKER.findall(output)
            reason = told[0] if told else exception_in(output) or refusal_in(output) or output[-_SHOWN:].strip()
            raise CheckFailed(f"`{' '.join(words[:4])} ...` ended with status {status}: {reason}")
        return output

    def run(self, *words: str, folder: Path | None = None) -> tuple[int, str]:
        """Runs Python with these words, in a folder; returns its status and its output, which also goes to the log."""
        command = [sys.executable, *words]
        sys.stdout.write(f"$ {shlex.join(command)}\n")
        sys.stdout.flush()
        output = []
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            encoding="utf-8",
            errors="replace",
            preexec_fn=partial(end_with_parent, signal.SIGINT),  # a run would go on to its next sync after SIGTERM
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                sys.stdout.write(line)
                sys.stdout.flush()
                output.append(line)
        return process.returncode, "".join(output)


def in_checkout(*parts: str) -> Path:
    """A file of the checkout that the package does not carry.

    Raises:
        NotHere: muloco is installed without a checkout.
    """
    path = CHECKOUT.joinpath(*parts)
    if not path.exists():
        raise NotHere(f"it needs a checkout of muloco, which has {'/'.join(parts)}")
    return path
