"""The live runs against which attacks are played, and the workshop for attacks that need no live run."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from attacking import judge
from attacking.live import CONFIG, SETTINGS, LiveRun, environment, muloco, words
from attacking.network_run import NetworkRun
from attacking.registry import Attack, Ending, Report, Seen, Verdict
from attacking.small_disks import SmallDisks

FIRST_SYNC_SECONDS = 180.0
HEALTHY_SECONDS = 20.0
"""A run that syncs within this many seconds is used for the next attack, whatever the verdict on the last one was."""


class CannotStart(RuntimeError):
    """A run without any attack does not come to its first syncs."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The class of the run."""

    name: str
    workers: int
    settings: Mapping[str, object] = field(default_factory=dict)
    prepare: Callable[[LiveRun], None] = lambda run: None
    """Called once all workers sync."""
    disks: bool = False
    """Whether its files are on small disks."""
    network: bool = False
    """Whether each worker is in a network namespace of its own."""


def _give_up_worker_2(run: LiveRun) -> None:
    """Stops worker 2 for good, so that its place is free for workers that are started by hand."""
    os.kill(run.by_number()[2], signal.SIGKILL)
    run.expected = {0, 1}
    if not run.goes_on():
        raise CannotStart(f"the others do not go on without worker 2: {run.last_lines(3)}")


SCENES = {
    scene.name: scene
    for scene in (
        Scene(name="crew", workers=3),
        Scene(name="gap", workers=3, settings={"fault_tolerance.restarts": 0}, prepare=_give_up_worker_2),
        Scene(name="ends", workers=2),
        Scene(name="disks", workers=2, disks=True),
        Scene(name="network", workers=3, network=True),
    )
}


class Workshop:
    """Provides files and commands for attacks that need no live run.

    Args:
        folder: the folder for all files.
        mutations: number of mutations of each kind.
    """

    def __init__(self, folder: Path, *, mutations: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.mutations = mutations
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._finished: Path | None = None

    def room(self) -> Path:
        """Returns a new, empty folder."""
        path = self._folder / f"room-{next(self._numbers)}"
        path.mkdir(parents=True)
        return path

    def finished(self) -> Path:
        """Returns a copy of the folder of a complete run of two workers, with whole checkpoints of steps 10 and 20."""
        with self._lock:
            if self._finished is None:
                self._finished = self._train()
        copy = self.room() / "run"
        shutil.copytree(self._finished, copy)
        return copy

    def unfinished(self) -> Path:
        """The same without its summary, so that `--resume` loads the newest checkpoint."""
        copy = self.finished()
        (copy / "summary.json").unlink()
        return copy

    def command(self, *arguments: object, seconds: float = 120.0, **more: str) -> subprocess.CompletedProcess[str]:
        """Runs `muloco` with these arguments; the status is 124 if it did not end in time."""
        try:
            return subprocess.run(
                muloco(*map(str, arguments)),
                capture_output=True,
                text=True,
                timeout=seconds,
                env=environment(**more),
                cwd=self._folder,
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess([], 124, "", f"no end within {seconds:g} s")

    def _train(self) -> Path:
        settings = {
            **SETTINGS,
            "training.steps": 20,
            "checkpoint.interval": 10,
            "fault_tolerance.group_size": 2,
            "run.name": "finished",
            "run.outputs": str(self._folder),
        }
        done = self.command("train", CONFIG, *words(settings), seconds=FIRST_SYNC_SECONDS)
        if done.returncode:
            raise CannotStart(f"a run without attacks ended with status {done.returncode}: {done.stdout[-2000:]}")
        return self._folder / "finished"


class Stage:
    """Plays the attacks of one scene; a run that an attack has broken is replaced by a new one."""

    def __init__(self, scene: Scene, outputs: Path):
        self._scene, self._outputs = scene, outputs
        self._run: LiveRun | None = None
        self._numbers = itertools.count()

    def play(self, attack: Attack, rng: random.Random) -> Report:
        try:
            run = self.live()
        except OSError as error:
            return Report.of(Verdict.IMPOSSIBLE, str(error))
        before = judge.look(run)
        found = attack.play(run, rng)
        if isinstance(found, Report):
            report = found
        elif isinstance(found, Ending):
            report = judge.ended(run, before, found)
        else:
            report = judge.after(run, before, found or Seen())
        if report.bad and not (run.status is None and run.goes_on(seconds=HEALTHY_SECONDS)):
            self.end()
        return report

    def live(self) -> LiveRun:
        """Returns the run, after its workers have synced.

        Raises:
            CannotStart: the run does not reach its first syncs.
            OSError: this machine does not allow the scene.
        """
        if self._run is not None and self._run.status is None:
            return self._run
        self.end()
        scene = self._scene
        name = f"{scene.name}-{next(self._numbers)}"
        disks = SmallDisks(self._outputs / name) if scene.disks else None
        kind = NetworkRun if scene.network else LiveRun
        run = kind(self._outputs, name, scene.settings, workers=scene.workers, disks=disks)
        self._run = run
        run.start()
        if not run.goes_on(seconds=FIRST_SYNC_SECONDS):
            said = run.last_lines()
            self.end()
            raise CannotStart(f"run {run.name} does not come to its first syncs: {said}")
        scene.prepare(run)
        return run

    @property
    def current(self) -> LiveRun | None:
        return self._run

    def end(self) -> None:
        if self._run is not None:
            self._run.end()
            if self._run.disks is not None:
                self._run.disks.end()
            self._run = None
