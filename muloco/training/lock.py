"""One process at a time in a folder, also on file systems that have no locks."""

import _thread
import contextlib
import errno
import fcntl
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from muloco.training.load import ConfigError

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
"""Seconds between two signs of life of a holder, where the file system has no locks."""
SILENT_SECONDS = 60.0
"""Seconds without a sign of life after which such a holder counts as dead."""
SETTLE_SECONDS = 2.0
"""Seconds after which it is certain which of several processes has taken the place of a dead holder."""
_POLL_SECONDS = 0.5
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def only_one(file: Path, complaint: str, *, patience: float = 0.0, grace: float = 0.0) -> Iterator[None]:
    """Holds a lock, which ends with this process and which its child processes do not inherit.

    Where the file system has no locks, the file is the lock, and its holder changes it every few seconds. A holder that
    has not changed it for a minute, by the clock of whoever watches, is dead, and another process may take its place.

    Args:
        file: the lock, which names its holder; it is removed at the end.
        complaint: what to say if another process holds it; the process, its machine and its start are added.
        patience: seconds to wait for another process that holds it.
        grace: seconds to wait if the last holder has died, in which its child processes end.

    Raises:
        ConfigError: another process holds it, or the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        release = _taken(file, complaint, time.monotonic() + patience, grace)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written to: {error.strerror or error}") from None
    try:
        yield
    finally:
        release.close()


def _taken(file: Path, complaint: str, deadline: float, grace: float) -> contextlib.ExitStack:
    """Takes the lock. Returns what releases it."""
    while True:
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _text(lock)
            os.close(lock)
            if time.monotonic() > deadline:
                raise ConfigError(f"{complaint} ({holder})" if holder else complaint) from None
            time.sleep(_POLL_SECONDS)
            continue
        except OSError as error:
            os.close(lock)
            if error.errno not in _NO_LOCKS:
                raise
            return _Heartbeat(file).taken(complaint, deadline)
        # a file that its holder has removed meanwhile is not the lock any more
        if file.exists() and os.path.samestat(os.stat(file), os.fstat(lock)):
            break
        os.close(lock)
    last = _text(lock)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{_own_name()}\n".encode(), 0)  # before the wait, so that whoever is refused learns who waits
    _wait_for_children(last, grace)
    release = contextlib.ExitStack()
    release.callback(os.close, lock)
    release.callback(file.unlink, missing_ok=True)
    return release


class _Heartbeat:
    """A lock of a file that its holder changes again and again. Its first line names the holder, its second one is
    different each time.

    Args:
        file: the lock.
    """

    def __init__(self, file: Path):
        self._file = file
        self._draft = file.with_name(f"{file.name}.{uuid.uuid4().hex[:12]}")
        self._name = _own_name()
        self._mark = uuid.uuid4().hex
        self._beats = 0
        self._over = threading.Event()

    def taken(self, complaint: str, deadline: float) -> contextlib.ExitStack:
        """See `_taken`."""
        seen = self._read()
        changed = time.monotonic()
        told = False
        while seen.strip():  # a file without contents has been made a moment ago, to try for a lock
            if not told:
                logger.warning(
                    "this file system has no locks; waiting for at most %g s for a sign of life of %s in %s",
                    *(SILENT_SECONDS, _name_in(seen), self._file),
                )
                told = True
            if time.monotonic() > changed + SILENT_SECONDS:
                break
            time.sleep(_POLL_SECONDS)
            now = self._read()
            if now.strip() and now != seen and time.monotonic() > deadline:
                raise ConfigError(f"{complaint} ({_name_in(now)})")
            if now != seen:
                seen, changed = now, time.monotonic()
        if self._read() == seen:
            self._beat()
            time.sleep(SETTLE_SECONDS)
        if not self._is_own():
            raise ConfigError(f"{complaint} ({_name_in(self._read())})")
        thread = threading.Thread(target=self._go_on, name=f"lock {self._file.name}", daemon=True)
        thread.start()
        release = contextlib.ExitStack()
        release.callback(self._remove)
        release.callback(thread.join)
        release.callback(self._over.set)
        return release

    def _go_on(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            try:
                if self._is_own() or not self._read().strip():  # where the file was deleted, nobody has taken over
                    self._beat()
                    continue
            except OSError as error:
                logger.warning("the lock %s cannot be renewed: %s", self._file, error)
                continue
            logger.error("%s has taken over %s, so this process ends", _name_in(self._read()), self._file)
            _thread.interrupt_main()
            return

    def _beat(self) -> None:
        self._beats += 1
        self._draft.write_text(f"{self._name}\n{self._mark} {self._beats}\n", encoding="utf-8")
        self._draft.replace(self._file)

    def _is_own(self) -> bool:
        return self._mark in self._read()

    def _read(self) -> str:
        try:
            return self._file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def _remove(self) -> None:
        if self._is_own():
            self._file.unlink(missing_ok=True)


def _wait_for_children(holder: str, grace: float) -> None:
    """Waits if the last holder has left its lock behind, until its child processes have noticed its death."""
    if holder and grace:
        logger.warning("%s has died; waiting %g s for its child processes to end", holder, grace)
        time.sleep(grace)


def _text(lock: int) -> str:
    return os.pread(lock, 1000, 0).decode("utf-8", errors="replace").strip()


def _own_name() -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()}, since {since}"


def _name_in(text: str) -> str:
    return text.partition("\n")[0].strip() or "another process"
