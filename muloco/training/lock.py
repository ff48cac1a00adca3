"""One process at a time in a folder."""

import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from muloco.training.load import ConfigError

logger = logging.getLogger(__name__)


@contextmanager
def only_one(file: Path, complaint: str) -> Iterator[None]:
    """Holds a lock, which ends with this process and which its child processes do not inherit.

    Args:
        file: the lock, which names its holder; it is removed at the end.
        complaint: what to say if another process holds it; the process, its machine and its start are added.

    Raises:
        ConfigError: another process holds it, or the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(file, complaint)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written to: {error.strerror or error}") from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(lock)


def _locked(file: Path, complaint: str) -> int:
    """The descriptor of the locked file. A file that its holder has removed meanwhile is not the lock any more."""
    while True:
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 1000).decode("utf-8", errors="replace").strip()
            os.close(lock)
            raise ConfigError(f"{complaint} ({holder})" if holder else complaint) from None
        except OSError as error:
            logger.warning("%s: this file system has no locks (%s); nothing else may work here", file, error.strerror)
        if file.exists() and os.path.samestat(os.stat(file), os.fstat(lock)):
            break
        os.close(lock)
    os.ftruncate(lock, 0)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    os.write(lock, f"process {os.getpid()} on {socket.gethostname()}, since {since}\n".encode())
    return lock
