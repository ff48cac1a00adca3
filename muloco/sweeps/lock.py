"""One process at a time in a folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from muloco.training.load import ConfigError


@contextmanager
def only_one(file: Path, complaint: str) -> Iterator[None]:
    """Holds a lock.

    Args:
        file: the lock; made where it is not there, and left.
        complaint: what to say if another process holds it.

    Raises:
        ConfigError: another process holds it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(complaint) from None
        yield
