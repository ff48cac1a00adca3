"""Files at predictable paths, in folders that other users may write to: links that others have planted there are not
followed, and permissions follow the umask. This module needs only Python's standard library."""

import os
from pathlib import Path
from uuid import uuid4


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
    draft = path.with_name(f".{path.name[:100]}.{uuid4().hex[:12]}")
    try:
        with draft.open("x", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
