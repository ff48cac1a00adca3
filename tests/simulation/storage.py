"""The storage that the workers of a run share: their commit logs, which may lag or lose lines, and checkpoints."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from muloco.runs.commits import Entry, parse
from tests.simulation.world import Process, World


@dataclass
class Storage:
    """What is on the disks."""

    logs: dict[int, list[tuple[float, Entry | bytes]]] = field(default_factory=dict)
    """The entries of each worker's log, with the time of each; damaged ones as lines."""
    lags: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Until when a machine sees the logs of others late, and by how many seconds."""
    checkpoints: dict[int, dict[tuple[int, int], Any]] = field(default_factory=dict)
    """By step, worker and rank, what each rank has saved of itself."""
    whole: list[int] = field(default_factory=list)
    """Steps of the checkpoints that are whole, in ascending order."""

    def lose_tail(self, worker: int, entries: int) -> None:
        """Loses the newest entries of a worker's log."""
        log = self.logs.get(worker, [])
        del log[max(0, len(log) - entries) :]

    def damage(self, worker: int, how: str, random: Random) -> None:
        """Damages a worker's log: a digit of each line is another one (`digits`), any line becomes `zeros`, or the
        newest one is `torn`."""
        log = self.logs.get(worker, [])
        for index in range(len(log)) if how == "digits" else [random.randrange(len(log))] if log else ():
            index = len(log) - 1 if how == "torn" else index
            time, entry = log[index]
            line = bytearray(entry if isinstance(entry, bytes) else entry.to_line().encode())
            match how:
                case "digits":
                    digits = [place for place, byte in enumerate(line[:-9]) if chr(byte).isdigit()]
                    line[random.choice(digits or [0])] ^= 1 << random.randrange(3)
                case "zeros":
                    line = bytearray(len(line))
                case "torn":
                    del line[random.randrange(len(line)) :]
            log[index] = time, bytes(line)

    def save(self, step: int, part: tuple[int, int], state: Any, needed: list[tuple[int, int]]) -> None:
        """Saves a part of a checkpoint, that of a worker's rank. It is whole once all parts that it needs are there."""
        parts = self.checkpoints.setdefault(step, {})
        parts[part] = state
        if set(needed) <= set(parts) and step not in self.whole:
            self.whole = sorted([*self.whole, step])

    def newest(self) -> int | None:
        """Returns the step of the newest whole checkpoint."""
        return self.whole[-1] if self.whole else None


class SimulatedLog:
    """See `muloco.runs.commits.Log`: a worker's log as a process sees it."""

    def __init__(self, storage: Storage, process: Process, worker: int, machine: str):
        self._storage, self._process, self._worker = storage, process, worker
        self._own = process.machine == machine
        self._world: World = process.world

    def append(self, entry: Entry) -> None:
        self._world.point("writes its log")
        self._storage.logs.setdefault(self._worker, []).append((self._world.now, entry))

    def newest_first(self) -> Iterator[Entry]:
        self._world.here()
        until, lag = (0.0, 0.0) if self._own else self._storage.lags.get(self._process.machine, (0.0, 0.0))
        latest = self._world.now - (lag if self._world.now < until else 0.0)
        entries = self._storage.logs.get(self._worker, [])
        seen = [entry for time, entry in reversed(entries) if time <= latest]
        read = (parse(entry) if isinstance(entry, bytes) else entry for entry in seen)
        return iter([entry for entry in read if entry is not None])
