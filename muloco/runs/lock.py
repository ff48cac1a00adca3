"""Locks on files, and one that only one process at a time can hold, also on file systems that do not support locks."""

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from muloco.errors import UserError

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
"""Seconds between two signs of life of a holder, where the file system has no locks."""
SILENT_SECONDS = 60.0
"""Seconds without a sign of life after which such a holder counts as dead."""
SETTLE_SECONDS = 2.0
"""Seconds to wait until it is certain which of several processes has replaced a dead holder."""
_POLL_SECONDS = 0.5
_LOOK_SECONDS = 0.2
"""Seconds between two looks whether a file that is locked was deleted."""
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def only_one(file: Path, complaint: str, *, patience: float = 0.0, grace: float = 0.0) -> Iterator[None]:
    """Holds a lock, which ends with this process and which its child processes do not inherit. If the file is deleted,
    it is made again.

    If the file system does not support locks, the file itself is the lock, and its holder changes it every few seconds.
    A holder that has not changed it for a minute, by the clock of the waiting process, counts as dead and may be
    replaced.

    Args:
        file: the lock, which names its holder; it is removed at the end.
        complaint: what to say if another process holds it; the process, its machine and its start are added.
        patience: seconds to wait for a process that holds the lock.
        grace: seconds to wait, if the last holder has died, until its child processes have ended.

    Raises:
        UserError: another process holds it, or the file cannot be written.
    """
    with contextlib.ExitStack() as release:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            _take(file, complaint, time.monotonic() + patience, grace, release)
        except OSError as error:
            raise UserError(f"{file} cannot be written to: {error.strerror or error}") from None
        yield


def _take(file: Path, complaint: str, deadline: float, grace: float, release: contextlib.ExitStack) -> None:
    """Takes the lock, which `release` releases."""
    while True:
        lock = _opened(file)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _text(lock)
            os.close(lock)
            if time.monotonic() > deadline:
                raise UserError(f"{complaint} ({holder})" if holder else complaint) from None
            time.sleep(_POLL_SECONDS)
            continue
        except OSError as error:
            os.close(lock)
            if error.errno not in _NO_LOCKS:
                raise
            return _Heartbeat(file).take(complaint, deadline, release)
        if is_at(file, lock):  # a file that its holder has removed in the meantime is no longer the lock
            break
        os.close(lock)
    last = _text(lock)
    _Locked(file, lock).keep(release)  # before the wait, so that whoever is refused learns who waits
    if last and grace:
        logger.warning("%s has died; waiting %g s for its child processes to end", last, grace)
        time.sleep(grace)


def _keep(file: Path, renew: Callable[[], bool], seconds: float, release: contextlib.ExitStack) -> None:
    """Calls `renew` every few seconds in a thread, until `release` ends it. If `renew` returns False, another process
    has taken over the lock, and this process ends."""
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(seconds):
            try:
                if renew():
                    continue
                logger.error("%s has taken over %s, so this process ends", _name_in(_read(file)), file)
            except OSError as error:
                logger.warning("the lock %s cannot be renewed: %s", file, error)
                continue
            return _thread.interrupt_main()

    thread = threading.Thread(target=go_on, name=f"lock {file.name}", daemon=True)
    thread.start()
    release.callback(thread.join)
    release.callback(over.set)


class _Locked:
    """A file that is locked. If it is deleted meanwhile, it is made and locked again, as others would find no lock."""

    def __init__(self, file: Path, lock: int):
        self._file, self._lock = file, lock

    def keep(self, release: contextlib.ExitStack) -> None:
        release.callback(self._close)
        _name_holder(self._lock)
        _keep(self._file, self._renew, _LOOK_SECONDS, release)

    def _renew(self) -> bool:
        if is_at(self._file, self._lock) or not self._file.parent.is_dir():
            return True
        lock = _opened(self._file)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _name_holder(lock)
        except OSError as error:
            os.close(lock)
            if isinstance(error, BlockingIOError):
                return False
            raise
        os.close(self._lock)
        self._lock = lock
        return True

    def _close(self) -> None:
        if is_at(self._file, self._lock):
            self._file.unlink(missing_ok=True)
        os.close(self._lock)


class _Heartbeat:
    """A lock in the form of a file that its holder changes regularly. The first line names the holder, and the second
    line is different each time."""

    def __init__(self, file: Path):
        self._file = file
        self._draft = file.with_name(f"{file.name}.{uuid.uuid4().hex[:12]}")
        self._name = _own_name()
        self._mark = uuid.uuid4().hex
        self._beats = 0

    def take(self, complaint: str, deadline: float, release: contextlib.ExitStack) -> None:
        seen, changed = _read(self._file), time.monotonic()
        if seen.strip():  # an empty file was made a moment ago by the attempt to lock it
            logger.warning(
                "this file system does not support locks; waiting at most %g s for a sign of life of %s in %s",
                SILENT_SECONDS,
                _name_in(seen),
                self._file,
            )
        while seen.strip() and time.monotonic() <= changed + SILENT_SECONDS:
            time.sleep(_POLL_SECONDS)
            now = _read(self._file)
            if now.strip() and now != seen and time.monotonic() > deadline:
                raise UserError(f"{complaint} ({_name_in(now)})")
            if now != seen:
                seen, changed = now, time.monotonic()
        if _read(self._file) == seen:
            self._beat()
            time.sleep(SETTLE_SECONDS)
        if not self._is_own():
            raise UserError(f"{complaint} ({_name_in(_read(self._file))})")
        release.callback(self._remove)
        _keep(self._file, self._renew, BEAT_SECONDS, release)

    def _renew(self) -> bool:
        if self._is_own() or not _read(self._file).strip():  # if the file was deleted, nobody has taken over
            self._beat()
            return True
        return False

    def _beat(self) -> None:
        self._beats += 1
        self._draft.write_text(f"{self._name}\n{self._mark} {self._beats}\n", encoding="utf-8")
        self._draft.replace(self._file)

    def _is_own(self) -> bool:
        return self._mark in _read(self._file)

    def _remove(self) -> None:
        if self._is_own():
            self._file.unlink(missing_ok=True)


def try_lock(file: int, how: int) -> bool:
    """Locks an open file, without waiting for others. The lock ends when the file is closed.

    Args:
        file: descriptor.
        how: `fcntl.LOCK_SH` for a lock that many can hold at a time, `fcntl.LOCK_EX` for one that only one can hold.

    Returns:
        False if others hold a lock that does not allow this; True also where the file system does not support locks, so
        that nobody can hold one.
    """
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def is_at(file: Path, lock: int) -> bool:
    """Whether the path still leads to the file of the descriptor."""
    try:
        return os.path.samestat(os.stat(file, follow_symlinks=False), os.fstat(lock))
    except OSError:
        return False


def _name_holder(lock: int) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{_own_name()}\n".encode(), 0)


def _opened(file: Path) -> int:
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _text(lock: int) -> str:
    return os.pread(lock, 1000, 0).decode("utf-8", errors="replace").strip()


def _own_name() -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()}, since {since}"


def _name_in(text: str) -> str:
    return text.partition("\n")[0].strip() or "another process"
