"""Checksums of the files of a cache entry.

`sha256.json` holds the checksums of the small files, which are compared whenever the entry is opened. The checksums of
the arrays are in meta.json; `verified.json` records the sizes, times and inodes of the arrays when they were last
compared with them.
"""

import hashlib
import json
import logging
from pathlib import Path

from muloco.data.errors import DamagedCacheError
from muloco.files import write_whole

logger = logging.getLogger(__name__)

SUMS, VERIFIED = "sha256.json", "verified.json"


def write_checksums(folder: Path) -> None:
    """Writes the checksums of all small files of an entry that is complete, and notes its arrays as verified."""
    small = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".npy"]
    sums = {path.relative_to(folder).as_posix(): _sha256(path) for path in sorted(small)}
    (folder / SUMS).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")
    note_arrays(folder)


def check_small_files(folder: Path) -> None:
    """Compares the small files of an entry with their checksums, if it has any. Raises DamagedCacheError, which names
    the file, if it is missing or has been changed."""
    if not (folder / SUMS).exists():
        return
    sums = _read(folder / SUMS)
    if sums is None:
        raise DamagedCacheError(folder, f"{SUMS} has been changed")
    for name, expected in sums.items():
        try:
            changed = _sha256(folder / name) != expected
        except (OSError, ValueError) as error:  # a name may be damaged, too
            raise DamagedCacheError(folder, f"{name!r} cannot be read ({error})") from error
        if changed:
            raise DamagedCacheError(folder, f"{name} has been changed")


def note_arrays(folder: Path) -> None:
    """Records that the arrays of an entry have the right checksums."""
    try:
        write_whole(folder / VERIFIED, json.dumps(_arrays(folder), indent=2) + "\n")
    except OSError as error:
        logger.warning("%s cannot be written (%s): the next run compares the checksums again", folder / VERIFIED, error)


def arrays_are_known(folder: Path) -> bool:
    """Whether the arrays of an entry have the same sizes, modification times and inodes as when they were last compared
    with their checksums."""
    return (folder / VERIFIED).exists() and _read(folder / VERIFIED) == _arrays(folder)


def _arrays(folder: Path) -> dict[str, list[int]]:
    stats = {path.name: path.stat() for path in sorted(folder.glob("*.npy"))}
    return {name: [stat.st_size, stat.st_mtime_ns, stat.st_ino] for name, stat in stats.items()}


def _read(file: Path) -> dict | None:
    try:
        values = json.loads(file.read_bytes())
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
