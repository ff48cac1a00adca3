"""Child processes whose output is kept, and which do not outlive this process."""

import contextlib
import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from muloco.errors import UserError
from muloco.runs.lines import LineFile
from muloco.training.pulse import STACKS, Sign, sign_in

logger = logging.getLogger(__name__)

LONGEST_LINE = 1 << 16
"""Most characters of a line of output. Longer lines are divided, so that a line without an end does not fill memory."""
_LAST_BYTES = 1 << 20
"""Number of bytes at the end of a log that are searched for the reason of a failure."""
_ASIDE = re.compile(r"Exception (?:in thread|ignored) ")
"""The beginning of the line before a traceback that did not end the program."""
_CHAINED = re.compile(r"The above exception was|During handling of the above exception")
"""The beginning of the line between two tracebacks of chained exceptions."""
_PR_SET_PDEATHSIG = 1
_OF_A_RANK = re.compile(
    "(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_.*|PET_.*"
    "|TORCH_NCCL_ASYNC_ERROR_HANDLING"
)
"""Variables by which a launcher such as torchrun tells a process its place among others. The children
of this process must not see them, though this process or the notebook or job that started it may have them."""


class Child:
    """A process in a session of its own. Its output goes to a log file and, line by line, to `on_line`; signs of life
    (`muloco.training.pulse`) are taken out of it.

    Args:
        log: file that its output is appended to.
        environment: added to this process's.
        on_line: called with each line, from a thread of the child.
        end_signal: what ends it at once, also when this process ends without a word.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
        end_signal: signal.Signals = signal.SIGTERM,
    ):
        self.name = name
        self.log = log
        self._end_signal = end_signal
        self._log_start = log.stat().st_size if log.exists() else 0
        own = {name: value for name, value in os.environ.items() if not _OF_A_RANK.fullmatch(name)}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**own, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:replace", **environment},
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # a Ctrl-C reaches the supervisor alone, which then ends its children in order
            preexec_fn=partial(end_with_parent, end_signal),
        )
        self._because: str | None = None
        self._heard = time.monotonic()
        self.signs = 0
        """Number of signs of life so far."""
        self.sign: Sign | None = None
        """The last one."""
        self._pump = threading.Thread(target=self._copy_output, args=(on_line,), daemon=True)
        self._pump.start()

    @property
    def status(self) -> int | None:
        """Exit status; negative: the signal that ended it; None: it runs."""
        return self._process.poll()

    @property
    def silent_seconds(self) -> float:
        """Seconds since it last wrote a line or gave a sign of life, or was started."""
        return time.monotonic() - self._heard

    def ask_to_stop(self) -> None:
        """Asks the process, by SIGUSR1, to bring its work to a good end before it ends."""
        self._process.send_signal(signal.SIGUSR1)

    def ask_for_stacks(self) -> None:
        """Asks a worker, by SIGUSR2, to write the stacks of all its threads to its output."""
        self._process.send_signal(STACKS)

    def ask_to_end(self) -> None:
        """Asks the process and all of its session to end, without waiting for it."""
        self._signal(self._end_signal)

    def end(self, grace_seconds: float, *, because: str | None = None) -> None:
        """Asks the process and its whole session to end, and kills them after a grace period.

        Args:
            because: the text that `reason` returns from then on.
        """
        self._because = because or self._because
        self.ask_to_end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_seconds)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._pump.join(timeout=grace_seconds)

    def reason(self) -> str:
        """Why it failed, from its exit status and the traceback in its log."""
        self._pump.join(timeout=2)
        status = self.status
        if self._because is not None:
            return self._because
        if status is not None and status < 0:
            return f"killed by {signal.Signals(-status).name}"
        try:
            with self.log.open("rb") as file:
                file.seek(max(self._log_start, os.fstat(file.fileno()).st_size - _LAST_BYTES))
                log = file.read().decode("utf-8", errors="replace")
        except OSError:  # it could not be written, or was removed
            log = ""
        refusal = refusal_in(log) if status == UserError.exit_status else None
        return refusal or cause_in(log, status) or exception_in(log) or f"exit status {status}"

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it and its children are gone
            os.killpg(self._process.pid, number)

    def _copy_output(self, on_line: Callable[[str], None]) -> None:
        """Reads until the pipe ends, even if the log or `on_line` fails: a child whose output is not read blocks
        forever once the pipe is full."""
        assert self._process.stdout is not None
        log, failed = LineFile(self.log, gap=lambda lines, why: f"[{lines} lines are missing here: {why}]"), False
        for line in iter(partial(self._process.stdout.readline, LONGEST_LINE), ""):
            self._heard = time.monotonic()
            line, sign = sign_in(line.rstrip("\n"))
            if sign is not None:
                self.sign = sign
                self.signs += 1
                if not line:
                    continue
            log.append(line)
            try:
                on_line(line)
            except BaseException as error:  # not even SystemExit may end the reading
                if not failed:
                    logger.warning("%s: its output cannot be shown (%s); its log has it", self.name, error)
                failed = True
        log.close()


def exception_in(log: str) -> str | None:
    """Returns the exception, `Type: message`, of the last Python traceback in a log that ended the program. Tracebacks
    of torchrun itself, and those that ended another thread, do not count."""
    exception, aside = None, False
    before, *tracebacks = re.split(r"^(?:\[rank\d+\]: ?)?Traceback \(most recent call last\):\n", log, flags=re.M)
    for traceback in tracebacks:
        introduction = re.sub(r"(?:\n?\[rank\d+\]:\s*)*$", "", before).rstrip().rpartition("\n")[2]
        introduction = re.sub(r"^\[rank\d+\]: ?", "", introduction)
        if not _CHAINED.match(introduction):
            aside = _ASIDE.match(introduction) is not None
        for line in traceback.splitlines():
            line = re.sub(r"^\[rank\d+\]: ?", "", line)
            if line and not line[0].isspace():
                if not aside and "ChildFailedError" not in line:
                    exception = re.sub(r"^[\w.]+\.(\w+:)", r"\1", line)
                break
        before = traceback
    return exception


def cause_in(log: str, status: int | None) -> str | None:
    """Returns what the last of several ranks that ended with this status said of it (`muloco.errors.rank_ends`);
    None if none did."""
    return next(reversed(re.findall(rf"^muloco: rank \d+ ends with status {status}: (.*)$", log, flags=re.M)), None)


def refusal_in(log: str) -> str | None:
    """Returns the last error message of our own program in a log, as a UserError; None if there is none."""
    messages = re.findall(r"^muloco: (?!rank \d+ ends)(.*)$", log, flags=re.M)
    return f"UserError: {messages[-1]}" if messages else None


def end_with_parent(end_signal: int) -> None:
    """Called in a child process: no longer ignores the signal that ends it, as background jobs of a shell ignore
    SIGINT; on Linux it also gets this signal when its parent dies."""
    if end_signal != signal.SIGKILL:
        signal.signal(end_signal, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, end_signal)
