"""The descriptions of a checkpoint: part.json in each part, and manifest.json, which repeats what all of them say.

They are checked before anything is done with them, as files may be damaged or come from somebody else. Checkpoints of
earlier versions have only the sizes of their files, and their part.json does not name the part. Needs nothing but
Python.
"""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muloco.errors import error_reason
from muloco.runs.folder import read_json

GLOBAL = "global"
METADATA = ".metadata"
"""The file of a part that says where the tensors and values are in its other files."""
PART = "part.json"
MANIFEST = "manifest.json"
_PART_NAME = re.compile(r"global|worker-[0-9]{3,}")
_FILE_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,255}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SAVE = {"step": int, "attempt": int, "history": str, "parts": list}
"""Fields of a save in JSON, with their types."""


def worker_part(worker: int) -> str:
    """Name of a worker's part."""
    return f"worker-{worker:03d}"


@dataclass(frozen=True, kw_only=True)
class Save:
    """One save of one step: equal on all workers that take part in it."""

    step: int
    attempt: int
    """How many times the run had been started."""
    history: str
    """Hash of the rounds that its workers have committed."""
    parts: list[str]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Size and digest of a file of a part when it was written."""

    bytes: int
    sha256: str | None
    """64 hexadecimal digits; None if an earlier version wrote the file, without digests."""


@dataclass(frozen=True, kw_only=True)
class Manifest(Save):
    """A checkpoint that is whole."""

    files: dict[str, dict[str, Stored]] = field(default_factory=dict)
    """All files, by the name of the part and the name of the file."""

    @property
    def has_digests(self) -> bool:
        """Whether the contents of all files can be verified."""
        return all(stored.sha256 is not None for files in self.files.values() for stored in files.values())


def read_manifest(folder: Path, step: int) -> Manifest:
    """Reads the manifest of a checkpoint, and compares it with what its parts say and with the sizes of all files.

    Args:
        folder: of the checkpoint.
        step: that it must belong to.

    Raises:
        ValueError: it is damaged; the message has the reason.
    """
    path = folder / MANIFEST
    raw = _described(_json(path), _SAVE | {"files": dict}, path)
    files = {name: _files(about, path) for name, about in raw.pop("files").items()}
    save = _save(raw, path)
    if save.step != step:
        raise ValueError(f"{MANIFEST} belongs to step {save.step}")
    if sorted(files) != sorted(save.parts):
        raise ValueError(f"{path} is damaged: its files do not match its parts")
    for name in save.parts:
        part = folder / name
        written, described = read_part(part)
        if written != save:
            raise ValueError(f"{part} belongs to another save than {MANIFEST}")
        if described != files[name]:
            raise ValueError(f"{part} and {MANIFEST} describe different files")
        for file, stored in described.items():
            size = _status(part / file).st_size
            if size != stored.bytes:
                raise ValueError(f"{part / file} has {size} bytes instead of {stored.bytes}")
    return Manifest(**vars(save), files=files)


def read_part(folder: Path) -> tuple[Save, dict[str, Stored]]:
    """Returns the save that a part belongs to, and its files by name. Raises ValueError if its part.json is damaged, or
    describes a part with another name than its folder's."""
    _status(folder, is_folder=True)
    path = folder / PART
    raw = {"name": folder.name} | _json(path)  # earlier versions do not write the name
    _described(raw, {"name": str, "save": dict, "files": dict}, path)
    if raw["name"] != folder.name:
        raise ValueError(f"{folder} holds the part {raw['name']} instead")
    return _save(raw["save"], path), _files(raw["files"], path)


def _status(path: Path, *, is_folder: bool = False) -> os.stat_result:
    """Returns the status of a file or folder in a checkpoint. Raises ValueError for anything else, such as a link."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error_reason(error)}") from error
    if stat.S_ISLNK(status.st_mode):
        raise ValueError(f"{path} is a link; a checkpoint may hold only files and folders")
    if not (stat.S_ISDIR if is_folder else stat.S_ISREG)(status.st_mode):
        raise ValueError(f"{path} is not a {'folder' if is_folder else 'file'}")
    return status


def _json(path: Path) -> dict[str, Any]:
    _status(path)
    try:
        return read_json(path)
    except RecursionError:
        raise ValueError(f"{path} is damaged: its JSON is nested too deeply") from None


def _described(raw: dict[str, Any], kinds: Mapping[str, type], path: Path) -> dict[str, Any]:
    """Returns a JSON object after it has checked that it has exactly these fields, of these types."""
    for name in raw:
        if name not in kinds:
            raise ValueError(f"{path} has the unknown field {name!r}: a later version wrote it, or it is damaged")
    for name, kind in kinds.items():
        if type(raw.get(name)) is not kind:
            raise ValueError(f"{path} is damaged: {name!r} is missing or of the wrong type")
    return raw


def _save(raw: dict[str, Any], path: Path) -> Save:
    save = Save(**_described(raw, _SAVE, path))
    for name in save.parts:
        if not isinstance(name, str) or not _PART_NAME.fullmatch(name):
            raise ValueError(f"{path} is damaged: no part is named {name!r}")
    if GLOBAL not in save.parts or len(set(save.parts)) < len(save.parts):
        raise ValueError(f"{path} is damaged: its parts are {save.parts}")
    return save


def _files(raw: Any, path: Path) -> dict[str, Stored]:
    """The files of a part, as part.json and the manifest describe them."""
    if not isinstance(raw, dict) or METADATA not in raw:
        raise ValueError(f"{path} is damaged: a part has no file {METADATA}")
    files = {}
    for name, about in raw.items():
        if not _FILE_NAME.fullmatch(name):
            raise ValueError(f"{path} is damaged: no file of a part is named {name!r}")
        if type(about) is int:
            files[name] = Stored(bytes=about, sha256=None)
        elif isinstance(about, dict):
            files[name] = Stored(**_described(about, {"bytes": int, "sha256": str}, path))
            if not _SHA256.fullmatch(about["sha256"]):
                raise ValueError(f"{path} is damaged: {name} has no SHA-256")
        else:
            raise ValueError(f"{path} is damaged: {name} has no size")
    return files
