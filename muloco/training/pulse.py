"""Signs of life of a worker, for the supervisor that started it. This module needs only Python's standard library.

They are lines in the worker's output, because this passes through torchrun and srun from any node and needs no disk.
The supervisor removes them from the output again (`muloco.launch.processes`).
"""

import contextlib
import faulthandler
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

WANTED = "MULOCO_PULSE"
"""Environment variable by which the supervisor asks a worker for signs of life."""
STACKS = signal.SIGUSR2
"""Signal that asks a worker to write the stacks of all its threads to its output."""
SECONDS = 1.0
"""Least seconds between two signs of life in the same state."""
_LINE = re.compile("\x1epulse (\\d+) ([a-z ]+)")


@dataclass(frozen=True)
class Sign:
    """A sign of life."""

    step: int
    """Inner steps that the worker has taken."""
    state: str
    """State in which the worker is from now on (`muloco.runs.states`)."""


class Pulse:
    """Writes signs of life, if the supervisor has asked for them.

    Args:
        environment: the environment of the process.
        write: writes bytes to the output of the process in one piece.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        environment: Mapping[str, str] = os.environ,
        write: Callable[[bytes], object] = lambda data: os.write(1, data),
        clock: Callable[[], float] = time.monotonic,
    ):
        self._wanted = WANTED in environment
        self._write, self._clock = write, clock
        self._state, self._at = "", 0.0

    def beat(self, step: int, state: str) -> None:
        """Reports the state in which the worker is after an inner step."""
        now = self._clock()
        if not self._wanted or (state == self._state and now < self._at + SECONDS):
            return
        self._state, self._at = state, now
        with contextlib.suppress(OSError):  # the supervisor is gone
            self._write(f"\x1epulse {step} {state}\n".encode())


def sign_in(line: str) -> tuple[str, Sign | None]:
    """Divides a line of output into the sign of life at its end, if there is one, and the text before it, which another
    thread may have begun to write."""
    sign = _LINE.search(line)
    return (line, None) if sign is None else (line[: sign.start()], Sign(int(sign[1]), sign[2]))


def show_stacks_on_request() -> None:
    """Makes the signal `STACKS` write the stacks of all threads to stderr, whatever this process is doing."""
    faulthandler.register(STACKS, file=2, all_threads=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {STACKS})  # a launcher may have blocked it
