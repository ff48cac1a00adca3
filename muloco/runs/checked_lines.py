"""Lines of text that carry their own checksum, so that a damaged line does not affect the others. This module needs
only Python's standard library.

A line ends with the CRC-32 of the text before it, in 8 hexadecimal digits: `commit 1 30 0 0-3 6c1f03ab`. A machine that
fails may leave an incomplete line or a block of zeros. Such lines are recognized and skipped.
"""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

FIRST_BLOCK = 4096
"""Number of bytes that are read from the end of a file first."""


def checked(text: str) -> str:
    """Returns a text of one line with its checksum."""
    return f"{text} {zlib.crc32(text.encode()):08x}"


def content(line: bytes) -> str | None:
    """Returns the text of a line that `checked` has made, or None for any other line."""
    text, _, checksum = line.rpartition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    return text.decode("utf-8", errors="replace")


def lines_from_end(path: Path) -> Iterator[bytes]:
    """Yields the lines of a file, the last one first, without an incomplete last line.

    The file is opened anew, so that NFS asks the server for its size. It is read from its end in blocks, each twice as
    large as the one before, so that reading the newest lines is cheap however long the file is.

    Raises:
        OSError: the file is missing or cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        end, block, rest, ended = os.fstat(file.fileno()).st_size, FIRST_BLOCK, b"", False
        while end > 0:
            start = max(0, end - block)
            rest = os.pread(file.fileno(), end - start, start) + rest
            end, block = start, 2 * block
            first, *others = rest.split(b"\n")
            if others:
                yield from reversed(others if ended else others[:-1])
                rest, ended = first, True
        if ended:
            yield rest


def end_torn_line(path: Path) -> None:
    """Adds a line end to a file whose last line is incomplete, for example after a crash of the machine, so that the
    next line that is appended stays separate. Raises OSError if the file cannot be written."""
    if path.exists() and (size := path.stat().st_size):
        with path.open("rb+", buffering=0) as file:
            if os.pread(file.fileno(), 1, size - 1) != b"\n":
                os.pwrite(file.fileno(), b"\n", size)
