"""The folder of a run's checkpoints: which of them count, and how a part gets into one. Needs nothing but Python.

    checkpoint/step-N/worker-000/     a part: files, and part.json with the part's name, the save that it belongs to,
                                      and the size and digest of each file
    checkpoint/step-N/global/         the same
    checkpoint/step-N/manifest.json   written last, by the worker that completes the set; without it nothing counts. It
                                      repeats what each part.json says (`muloco.runs.manifest`)

A part is written under another name and renamed once it is there. It tells the save that it belongs to (attempt, rounds
so far, parts), so that parts of different saves of one step never make a set.

A checkpoint may be removed at any time by the worker that completes a newer one, except while somebody holds it.
"""

import contextlib
import fcntl
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from muloco.errors import RunFailed, error_reason
from muloco.runs.digests import sha256_of
from muloco.runs.folder import write_json
from muloco.runs.lock import is_at, try_lock
from muloco.runs.manifest import MANIFEST, PART, Manifest, Save, Stored, read_manifest, read_part

logger = logging.getLogger(__name__)

_REMOVED = "it was removed while it was read"
_STEP_FOLDER = re.compile(r"step-(0|[1-9][0-9]*)")


class Incomplete(ValueError):
    """A checkpoint has no manifest: not all of its parts were written, or it was removed."""


class NoWholeCheckpoint(RunFailed):
    """There were whole checkpoints, and none of them can be used."""


class CheckpointFolder:
    """The checkpoints of a run on disk.

    Args:
        root: need not exist yet.
    """

    def __init__(self, root: Path):
        self.root = root

    def part(self, step: int, name: str) -> Path:
        return self._step(step) / name

    def unfinished(self, step: int, name: str) -> Path:
        """Returns the folder in which a part is written before it gets its name."""
        return self._step(step) / f".{name}.unfinished"

    def publish(self, save: Save, name: str, files: Mapping[str, Stored]) -> None:
        """Gives a written part its name."""
        self._manifest(save.step).unlink(missing_ok=True)  # of an earlier save of this step
        unfinished, part = self.unfinished(save.step, name), self.part(save.step, name)
        described = {file: asdict(stored) for file, stored in files.items()}
        write_json(unfinished / PART, {"name": name, "save": asdict(save), "files": described})
        if part.exists():
            shutil.rmtree(part)
        unfinished.rename(part)

    def complete(self, save: Save) -> bool:
        """Writes the manifest if all parts are there. Each worker calls it behind its own parts: the last one does."""
        files = {}
        for name in save.parts:
            part = self.part(save.step, name)
            if not (part / PART).exists():
                return False
            try:
                written, files[name] = read_part(part)
            except ValueError as error:
                logger.warning("%s: checkpoint step-%d is incomplete", error, save.step)
                return False
            if written != save:
                return False
        write_json(self._manifest(save.step), asdict(Manifest(**asdict(save), files=files)))
        return True

    def newest(
        self, read: Callable[[int], Manifest] | None = None, steps: Callable[[], list[int]] | None = None
    ) -> tuple[Manifest | None, list[str]]:
        """Returns the newest whole checkpoint, and the name of each newer one that is skipped, with the reason. If none
        can be used, but others have been written or removed meanwhile, it looks again.

        Args:
            read: returns the checkpoint of a step, or raises ValueError if it cannot be used, `Incomplete` if it has no
                manifest. By default it is `read`, which does not verify the contents of the files.
            steps: lists the steps to choose from, in ascending order. By default it is `steps`.

        Raises:
            NoWholeCheckpoint: there were whole ones, and all are damaged.
        """
        read, steps = read or self.read, steps or self.steps
        listed, before = steps(), None
        while listed != before:
            aside: list[str] = []
            damaged = False
            for step in reversed(listed):
                try:
                    return read(step), aside
                except ValueError as error:
                    aside.append(f"{self._step(step)}: {error}")
                    damaged |= not isinstance(error, Incomplete)
            listed, before = steps(), listed
        if damaged:
            damages = "; ".join(aside)
            raise NoWholeCheckpoint(
                f"no checkpoint can be used ({damages}); move {self.root} away to start from the beginning"
            )
        return None, aside

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, whole or not, in ascending order."""
        matches = (_STEP_FOLDER.fullmatch(path.name) for path in self.root.glob("step-*"))
        return sorted(int(match[1]) for match in matches if match)

    def has_manifest(self, step: int) -> bool:
        """Whether the checkpoint of a step was completed at some time."""
        return os.path.lexists(self._manifest(step))

    def discard_unfinished(self, name: str) -> None:
        """Removes the unfinished files of earlier saves of a part."""
        for unfinished in self.root.glob(f"step-*/.{name}.unfinished"):
            shutil.rmtree(unfinished)

    def purge(self, keep: int, *, newest: int) -> None:
        """Removes all but the `keep` newest checkpoints with a manifest up to step `newest`, damaged ones included;
        with `keep` 0, nothing. Later checkpoints are from before the run was resumed at an older step, and stay. A
        checkpoint that is held stays until a later call."""
        with_manifest = [step for step in self.steps() if step <= newest and self.has_manifest(step)]
        if keep and len(with_manifest) > keep:
            for step in self.steps():
                if step < with_manifest[-keep]:
                    self._remove(step)

    def _remove(self, step: int) -> None:
        manifest = self._manifest(step)
        with contextlib.ExitStack() as release:
            with contextlib.suppress(OSError):  # it has none, or not a file that can be read
                if not try_lock(_opened(manifest, os.O_RDWR, release), fcntl.LOCK_EX):
                    return
            manifest.unlink(missing_ok=True)
            shutil.rmtree(self._step(step), ignore_errors=True)  # what remains goes the next time

    @contextlib.contextmanager
    def held(self, step: int) -> Iterator[None]:
        """Keeps the checkpoint of a step from being removed by `purge`, in this process or another one, while it is
        read. On a file system that does not support locks, it may be removed nevertheless.

        Raises:
            Incomplete: it has no manifest, or is being removed.
            ValueError: its manifest cannot be read.
        """
        manifest = self._manifest(step)
        with contextlib.ExitStack() as release:
            try:
                file = _opened(manifest, os.O_RDONLY, release)
                is_locked = try_lock(file, fcntl.LOCK_SH) and is_at(manifest, file)
            except FileNotFoundError:
                is_locked = False
            except OSError as error:
                raise ValueError(f"{manifest} cannot be read: {error_reason(error)}") from error
            if not is_locked:
                raise Incomplete(_REMOVED)
            yield

    def read(self, step: int) -> Manifest:
        """Returns the checkpoint of a step, after it has checked the names and sizes, not the contents, of its files.

        Raises:
            Incomplete: there is no such checkpoint, or it has no manifest.
            ValueError: it is damaged; the message has the reason.
        """
        if not self.has_manifest(step):
            raise Incomplete(f"not all of its parts were written: it has no {MANIFEST}")
        try:
            return read_manifest(self._step(step), step)
        except ValueError:
            self.require(step)  # what is being removed is not damaged
            raise

    def require(self, step: int) -> None:
        """Raises `Incomplete` if the checkpoint of a step, which was there before, has been removed."""
        if not self.has_manifest(step):
            raise Incomplete(_REMOVED)

    def read_verified(self, step: int) -> Manifest:
        """Returns the checkpoint of a step, after it has verified all of its files, and raises what `read` and `verify`
        raise."""
        manifest = self.read(step)
        for name in manifest.parts:
            self.verify(manifest, name)
        return manifest

    def verify(
        self, manifest: Manifest, name: str, *, rank: int = 0, ranks: int = 1, tell: Callable[[int], None] | None = None
    ) -> None:
        """Compares the files of a part with their digests. Files without a digest are skipped.

        Args:
            manifest: the checkpoint, as returned by `read`.
            rank, ranks: the index of this rank and the number of ranks, which share the files.
            tell: called regularly with the number of bytes that were read since the last call.

        Raises:
            ValueError: a file is damaged or cannot be read.
        """
        files = manifest.files[name]
        for file in sorted(files, key=lambda file: -files[file].bytes)[rank::ranks]:
            path, written = self.part(manifest.step, name) / file, files[file].sha256
            if written is None:
                continue
            try:
                digest = sha256_of(path, tell)
            except OSError as error:
                raise ValueError(f"{path} cannot be read: {error_reason(error)}") from error
            if digest != written:
                raise ValueError(f"{path} is damaged: its SHA-256 is {digest[:12]}..., and was {written[:12]}...")

    def _step(self, step: int) -> Path:
        return self.root / f"step-{step}"

    def _manifest(self, step: int) -> Path:
        return self._step(step) / MANIFEST


def _opened(path: Path, flags: int, release: contextlib.ExitStack) -> int:
    """Opens a file, but no link, and returns its descriptor. `release` closes it."""
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    release.callback(os.close, file)
    return file
