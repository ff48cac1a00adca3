"""The cache: folders that are made once a machine, however many processes ask for them at once.

The first process makes the folder, in a draft that is moved into place in one step; the others wait. On file systems
without locks they do not wait: a process that comes second throws its work away and uses what is there.
"""

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from muloco.data.checksums import write_checksums
from muloco.errors import UserError
from muloco.files import open_lock, remove_drafts, whole_folder

logger = logging.getLogger(__name__)


def default_cache() -> Path:
    """$MULOCO_CACHE, else $XDG_CACHE_HOME/muloco, else ~/.cache/muloco."""
    if cache := os.environ.get("MULOCO_CACHE"):
        return Path(cache)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "muloco"
    return Path.home() / ".cache" / "muloco"


def make_once(folder: Path, fill: Callable[[Path], object]) -> None:
    """Makes a cache entry unless it exists: `fill` writes it into an empty folder that then becomes `folder`. The
    checksums of its files are added. Raises UserError if the cache cannot be written."""
    with _writing(folder):
        if folder.exists():
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone(folder) as held:
            if folder.exists():
                logger.info("another process prepared %s meanwhile; using its result", folder)
                return
            if held:
                remove_drafts(folder)
            with whole_folder(folder, shared=True) as draft:
                fill(draft)
                write_checksums(draft)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Holds the lock of a cache entry, so that one process does the work and the others then find it done. The lock
    ends with the process. Gives False where the file system has no locks. Raises UserError if the cache cannot be
    written."""
    with _writing(folder):
        locks = folder.parent / ".locks"
        locks.mkdir(exist_ok=True)
        lock, held = open_lock(locks / folder.name), True
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process that prepares %s", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            held = False
        yield held
    finally:
        os.close(lock)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the cache {folder.parent} cannot be written: {error.strerror or error}; "
            "MULOCO_CACHE in the environment names another folder for it"
        ) from error
