"""A file to which lines are appended, and which survives a full disk. Needs nothing but Python."""

import contextlib
import errno
import functools
import logging
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from uuid import uuid4

logger = logging.getLogger(__name__)


class LineFile:
    """Appends lines, each at once, completely or not at all. Lines that cannot be written are dropped and counted. If
    the file is deleted, it is made again.

    Args:
        gap: makes the line that replaces dropped lines, from their number and the reason. It is written before the next
            line that can be written.
    """

    def __init__(self, path: Path, *, gap: Callable[[int, str], str]):
        self._path, self._gap = path, gap
        self._lost, self._reason = 0, ""
        self._file: FileIO | None = None

    def append(self, line: str) -> None:
        """Writes a line in UTF-8 and ends it."""
        lines = [self._gap(self._lost, self._reason), line] if self._lost else [line]
        data = "".join(f"{line}\n" for line in lines).encode("utf-8", errors="replace")
        try:
            if self._file is not None and os.fstat(self._file.fileno()).st_nlink == 0:
                logger.warning("%s was deleted; it is made again", self._path)
                self.close()
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = FileIO(self._path, "a")
            written = self._file.write(data)
            if written < len(data):  # the disk became full within the line
                os.ftruncate(self._file.fileno(), os.fstat(self._file.fileno()).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._reason = str(error.strerror)
            if self._lost == 0:
                logger.warning("%s: %s; lines that cannot be written are dropped", self._path, self._reason)
            self._lost += 1
            self.close()
        else:
            self._lost = 0

    def close(self) -> None:
        """Closes the file, which the next line opens again."""
        if self._file is not None:
            self._file.close()
            self._file = None


@functools.cache
def warn_once(message: str) -> None:
    logger.warning("%s", message)


def why_full(folder: Path) -> str | None:
    """The reason why no file can be written in a folder, or None."""
    probe = folder / f".probe.{uuid4().hex[:12]}"
    try:
        probe.write_bytes(b"x")
        return None
    except OSError as error:
        return str(error.strerror)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
