"""The arguments and tools of a check: its device, sizes and folder, and methods that run commands."""

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from muloco.launch.processes import end_with_parent, exception_in, refusal_in
from muloco.settings.load import CHECKOUT

Figures = dict[str, float | int | str]
"""The measurements of a check by name. A name ends with the unit, if there is one;
muloco/gpu_check/figures.py has the units."""
T = TypeVar("T")
_OF_A_WORKER = re.compile(r"^workers?(?: \d+)? failed: .*$", re.M)
"""The line in which `muloco train` gives the reason of its failure."""
_SHOWN = 300
"""Number of characters at the end of an output that a message quotes."""


class CheckFailed(Exception):
    """The check found something wrong; the message says what."""


class NotHere(Exception):
    """The check cannot run on this machine; the message says what is missing."""


def expect(condition: bool, message: str) -> None:
    """Raises CheckFailed with the message unless the condition holds."""
    if not condition:
        raise CheckFailed(message)


def normal(shape: Sequence[int], seed: int) -> torch.Tensor:
    """Returns normally distributed fp32 numbers on the CPU, the same for equal seeds."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def apart(tensor: torch.Tensor, expected: torch.Tensor) -> float:
    """Returns the norm of the difference of two tensors, relative to that of the second one."""
    return float((tensor - expected).norm() / expected.norm())


@dataclass(frozen=True)
class Bench:
    """The device and the folder in which a check runs."""

    device: torch.device
    scratch: Path
    """A folder that all rows of one call of `muloco check-gpu` share."""
    rehearsal: bool
    """Whether the check runs on the CPU at a small size."""

    def size(self, real: T, rehearsal: T) -> T:
        """Returns `real`, or in a rehearsal `rehearsal`."""
        return rehearsal if self.rehearsal else real

    def muloco(self, *words: str) -> str:
        """Runs a command of muloco in its own process and returns its output, stderr included.

        Raises:
            CheckFailed: the command failed.
        """
        return self.python("-m", "muloco", *words)

    def python(self, *words: str) -> str:
        """Runs Python with these arguments and returns its output, stderr included.

        Raises:
            CheckFailed: the exit status is not 0.
        """
        status, output = self.run(*words)
        if status:
            told = _OF_A_WORKER.findall(output)
            reason = told[0] if told else exception_in(output) or refusal_in(output) or output[-_SHOWN:].strip()
            raise CheckFailed(f"`{' '.join(words[:4])} ...` ended with status {status}: {reason}")
        return output

    def run(self, *words: str, folder: Path | None = None) -> tuple[int, str]:
        """Runs Python with these arguments in `folder`. Returns its exit status and its output, stderr included, which
        it also writes to the log of the row."""
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
            preexec_fn=partial(end_with_parent, signal.SIGINT),  # after SIGTERM a run would continue to its next sync
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                sys.stdout.write(line)
                sys.stdout.flush()
                output.append(line)
        return process.returncode, "".join(output)


def in_checkout(*parts: str) -> Path:
    """Returns the path of a file in the checkout that an installed package does not contain.

    Raises:
        NotHere: muloco is installed without a checkout.
    """
    path = CHECKOUT.joinpath(*parts)
    if not path.exists():
        raise NotHere(f"it needs a checkout of muloco, which has {'/'.join(parts)}")
    return path
