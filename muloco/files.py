"""Files at paths that others can foresee, in folders that others may write to: no link that they have planted there is
followed, and permissions are those of the umask. Needs nothing but Python."""

import os
from pathlib import Path
from uuid import uuid4


def open_lock(path: Path) -> int:
    """A descriptor of a file to lock, which is made if need be and keeps its contents.

    Raises:
        OSError: `path` is a link, or the file cannot be opened.
    """
    flags = os.O_CREAT | os.O_NOFOLLOW
    try:
        return os.open(path, os.O_RDWR | flags, 0o666)
    except PermissionError:  # another user has made it; reading is enough for a lock
        return os.open(path, os.O_RDONLY | flags, 0o666)


def write_whole(path: Path, text: str) -> None:
    """Writes a file in UTF-8, whole or not at all; it takes the place of any other file or link."""
    draft = path.with_name(f".{path.name[:100]}.{uuid4().hex[:12]}")
    try:
        with draft.open("x", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
