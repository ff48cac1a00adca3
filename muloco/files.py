"""Files and folders that are written completely or not at all, and the ends of files that grow.

Paths may be predictable, and in folders that other users may write to: links that others have planted there are not
followed, and permissions follow the umask. This module needs only Python's standard library.
"""

import contextlib
import glob
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

logger = logging.getLogger(__name__)


def open_lock(path: Path) -> int:
    """Opens a file to be locked, and returns its descriptor. The file is made if need be, and its contents are kept.

    Raises:
        OSError: `path` is a link, or the file cannot be opened.
    """
    flags = os.O_CREAT | os.O_NOFOLLOW
    try:
        return os.open(path, os.O_RDWR | flags, 0o666)
    except PermissionError:  # it belongs to another user; reading is enough for a lock
        return os.open(path, os.O_RDONLY | flags, 0o666)


def write_whole(path: Path, text: str) -> None:
    """Writes a file in UTF-8, completely or not at all. It replaces any file or link at that path."""
    draft = _draft_of(path)
    try:
        with draft.open("x", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def whole_folder(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """A context with an empty draft folder, which becomes `path` at the end. If an exception ends the context, the
    draft is removed. With `shared` several processes may make the same folder at once: the first one wins, and the
    drafts of the others are removed.

    Raises:
        OSError: there is a file or, unless it is shared, a folder with files at `path`, or nothing can be written.
    """
    draft = _draft_of(path)
    draft.mkdir()
    try:
        yield draft
        try:
            draft.rename(path)
        except OSError:
            if not (shared and path.is_dir()):
                raise
            logger.info("another process prepared %s meanwhile; using its result", path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def remove_drafts(folder: Path) -> None:
    """Removes the drafts of a folder that processes have left behind when they were killed. No process may be making
    that folder."""
    for draft in folder.parent.glob(f".{glob.escape(folder.name[:100])}.{'[0-9a-f]' * 12}"):
        shutil.rmtree(draft)


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name[:100]}.{uuid4().hex[:12]}")


def lines_from(path: Path, offset: int, most: int = 1 << 20) -> tuple[list[bytes], int]:
    """Reads the complete lines of a file from an offset in bytes on, `most` bytes at once; a line that is longer is
    returned in parts. Returns the lines without their ends, and the position behind the last one."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(most)
    whole = data[: data.rfind(b"\n") + 1] or (data if len(data) == most else b"")
    return whole.removesuffix(b"\n").split(b"\n") if whole else [], offset + len(whole)


def last_lines(path: Path, most: int = 1 << 16) -> list[bytes]:
    """The complete lines in the last bytes of a file, without their ends."""
    offset = max(0, path.stat().st_size - most)
    lines, _ = lines_from(path, offset, most + 1)
    return lines[1:] if offset else lines


def cut_torn_line(path: Path, step: int = 1 << 16) -> None:
    """Cuts off a last line without an end, which a machine that fails may leave. It reads the file backwards from its
    end, `step` bytes at a time."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - step)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            end = start + newline + 1
            if newline >= 0:
                break
        if end < file.seek(0, os.SEEK_END):
            file.truncate(end)
