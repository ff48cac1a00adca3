"""The folder of a run's checkpoints: which of them count, and how a part gets into one. Needs nothing but Python.

    checkpoint/step-N/worker-000/     a part: files, and part.json that says which save it belongs to and their sizes
    checkpoint/step-N/global/         the same
    checkpoint/step-N/manifest.json   written last, by whoever completes the set; without it nothing counts

A part is written under another name and renamed once it is there. It tells the save that it belongs to (attempt, rounds
so far, parts), so that parts of different saves of one step never make a set.
"""

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from muloco.training.run_folder import read_json, write_json

logger = logging.getLogger(__name__)

GLOBAL = "global"
_PART = "part.json"
_MANIFEST = "manifest.json"


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
    """Of the rounds of its workers."""
    parts: list[str]


@dataclass(frozen=True, kw_only=True)
class Manifest(Save):
    """A checkpoint that is whole."""

    files: dict[str, dict[str, int]] = field(default_factory=dict)
    """Bytes of each file, by part and name."""


class NoWholeCheckpoint(RuntimeError):
    """There were whole checkpoints, and none of them can be used."""


class CheckpointFolder:
    """See above.

    Args:
        root: need not exist yet.
    """

    def __init__(self, root: Path):
        self.root = root

    def part(self, step: int, name: str) -> Path:
        return self._step(step) / name

    def unfinished(self, step: int, name: str) -> Path:
        """Where a part is written."""
        return self._step(step) / f".{name}.unfinished"

    def publish(self, save: Save, name: str, files: Mapping[str, int]) -> None:
        """Gives a written part its name.

        Args:
            save: that it belongs to.
            name: of the part.
            files: bytes of each.
        """
        self._manifest(save.step).unlink(missing_ok=True)  # of an earlier save of this step
        unfinished, part = self.unfinished(save.step, name), self.part(save.step, name)
        write_json(unfinished / _PART, {"save": asdict(save), "files": dict(files)})
        if part.exists():
            shutil.rmtree(part)
        unfinished.rename(part)

    def complete(self, save: Save) -> bool:
        """Writes the manifest if all parts are there. Each worker calls it behind its own parts: the last one does."""
        files = {}
        for name in save.parts:
            path = self.part(save.step, name) / _PART
            if not path.exists():
                return False
            try:
                part = read_json(path)
            except ValueError as error:
                logger.warning("%s: checkpoint step-%d is incomplete", error, save.step)
                return False
            if part.get("save") != asdict(save):
                return False
            files[name] = part["files"]
        write_json(self._manifest(save.step), asdict(Manifest(**asdict(save), files=files)))
        return True

    def newest(self) -> tuple[Manifest | None, list[str]]:
        """The newest whole checkpoint, and of each newer one that is left aside which it is and why.

        Raises:
            NoWholeCheckpoint: there were whole ones, and all are damaged.
        """
        aside: list[str] = []
        steps = self.steps()[::-1]
        for step in steps:
            try:
                return self.read(step), aside
            except ValueError as error:
                aside.append(f"{self._step(step)}: {error}")
        if any(self._manifest(step).exists() for step in steps):
            damages = "; ".join(aside)
            raise NoWholeCheckpoint(
                f"no checkpoint can be used ({damages}); move {self.root} away to start from the beginning"
            )
        return None, aside

    def steps(self) -> list[int]:
        """Of all checkpoints, whole or not, in ascending order."""
        found = (re.fullmatch(r"step-(\d+)", path.name) for path in self.root.glob("step-*"))
        return sorted(int(match[1]) for match in found if match)

    def discard_unfinished(self, name: str) -> None:
        """Removes what earlier saves of a part have left half done."""
        for unfinished in self.root.glob(f"step-*/.{name}.unfinished"):
            shutil.rmtree(unfinished)

    def purge(self, keep: int) -> None:
        """Removes what is older than the `keep` newest checkpoints with a manifest, whole or not; 0: nothing."""
        with_manifest = [step for step in self.steps() if self._manifest(step).exists()]
        if keep and len(with_manifest) > keep:
            for step in self.steps():
                if step < with_manifest[-keep]:
                    self._manifest(step).unlink(missing_ok=True)
                    shutil.rmtree(self._step(step), ignore_errors=True)  # what remains goes the next time

    def read(self, step: int) -> Manifest:
        """The checkpoint of a step.

        Raises:
            ValueError: there is none, or it is incomplete; the message has the reason.
        """
        path = self._manifest(step)
        if not path.exists():
            raise ValueError("not all of its parts were written")
        try:
            manifest = Manifest(**read_json(path))
            parts = {name: dict(manifest.files[name]) for name in manifest.parts}
        except (TypeError, KeyError) as error:
            raise ValueError(f"{path} is damaged: {error!r}") from error
        if manifest.step != step:
            raise ValueError(f"{path.name} belongs to step {manifest.step}")
        for name, files in parts.items():
            for file, size in files.items():
                path = self.part(step, name) / file
                if not path.exists():
                    raise ValueError(f"{path} is missing")
                if path.stat().st_size != size:
                    raise ValueError(f"{path} has {path.stat().st_size} bytes instead of {size}")
            self._check_save(manifest, name)
        return manifest

    def _check_save(self, manifest: Manifest, name: str) -> None:
        """Raises ValueError unless a part belongs to the save of the manifest."""
        path = self.part(manifest.step, name) / _PART
        if not path.exists():
            raise ValueError(f"{path} is missing")
        save = {key: value for key, value in asdict(manifest).items() if key != "files"}
        if read_json(path).get("save") != save:
            raise ValueError(f"{path.parent} belongs to another save than {_MANIFEST}")

    def _step(self, step: int) -> Path:
        return self.root / f"step-{step}"

    def _manifest(self, step: int) -> Path:
        return self._step(step) / _MANIFEST
