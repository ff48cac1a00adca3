"""The console that all commands print to: plain text, in any encoding, on a stream that may be closed."""

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Iterator
from typing import Any, TextIO

from rich.console import Console


def open_console(*, stderr: bool = False, work_behind: bool = False, **options: Any) -> Console:
    """A console on stdout or stderr. Square brackets are printed as they are, not taken for markup.

    Printing never ends the program: if the output is closed (`muloco train ... | head`), or its disk is full, all
    further output is dropped. One line on stderr says so, unless nothing but the output is lost.

    Args:
        stderr: print to stderr instead of stdout.
        work_behind: whether the command does work that goes on when nobody reads its output any more.
        options: of `rich.console.Console`.
    """
    stream: Any = LastingStream(sys.stderr if stderr else sys.stdout, work_behind=work_behind)
    return Console(file=stream, markup=False, **{"highlight": False, **options})


class LastingStream:
    """A text stream that may fail without ending the program. A reader that goes is worth a message only with
    `work_behind`, a full disk always."""

    def __init__(self, stream: TextIO, *, work_behind: bool):
        self._stream = stream
        self._work_behind = work_behind
        self._ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._lasting():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._lasting():
            self._stream.flush()

    @contextlib.contextmanager
    def _lasting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._ended:
                self._ended = True
                silence(self._stream)
                if isinstance(error, BrokenPipeError) and not self._work_behind:
                    return
                with contextlib.suppress(OSError):
                    sys.stderr.write(f"muloco: {self._stream.name} ends here ({error.strerror}); the command goes on\n")


class BackgroundStream:
    """A text stream whose text is written by a thread, so that callers never wait for a slow or stopped reader, such as
    a pager. Text beyond a limit is dropped until the reader goes on; a line then says how many lines are missing."""

    MOST = 1 << 20
    """Characters that may wait for the reader."""
    TOGETHER = 500
    """Most pieces of text that are written at once."""

    def __init__(self, stream: Any):
        self._stream = stream
        # No lock: a Ctrl-C in the main thread may come between taking a lock and noting that it is taken.
        self._waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._taken = self._written = self._missing = 0
        self._thread = threading.Thread(target=self._write_on, daemon=True)
        self._thread.start()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if self._taken - self._written + len(text) > self.MOST:
            self._missing += text.count("\n")
            return len(text)
        if self._missing:
            self._put(f"[{self._missing} lines are missing here, because the output was not read in time]\n")
            self._missing = 0
        self._put(text)
        return len(text)

    def flush(self) -> None:
        """Does nothing, as the thread flushes."""

    def end(self) -> None:
        """Waits until all has been written."""
        self._waiting.put(None)
        self._thread.join()

    def _put(self, text: str) -> None:
        self._taken += len(text)
        self._waiting.put(text)

    def _write_on(self) -> None:
        pieces: list[str | None] = []
        while None not in pieces:
            pieces = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while len(pieces) < self.TOGETHER:
                    pieces.append(self._waiting.get_nowait())
            text = "".join(filter(None, pieces))
            self._stream.write(text)
            self._stream.flush()
            self._written += len(text)


def silence(stream: TextIO) -> None:
    """Discards what is still to be written to a stream, so that Python does not fail on it at exit."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def replace_what_cannot_be_encoded() -> None:
    """Makes stdout and stderr print a question mark for a character that the terminal's encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
