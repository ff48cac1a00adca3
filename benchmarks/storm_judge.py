"""Judges a run with injected faults by its run folder: figures, and failures."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from muloco.failpoints import FAILPOINTS
from muloco.launch.summary import lost_steps
from muloco.runs.folder import RunFolder, read_lines
from muloco.runs.states import State

COMMIT_SECONDS = 5.0
"""Seconds from a kill to the next sync of the others: the largest allowed median."""


@dataclass(kw_only=True)
class Figures:
    """Figures of one run, or of several."""

    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Number of faults by phase and kind."""
    syncs: int = 0
    digests: int = 0
    mismatches: list[str] = field(default_factory=list)
    """Syncs after which workers held different anchors."""
    commits: list[float] = field(default_factory=list)
    """Seconds from each kill to the next sync of another worker."""
    recoveries: list[float] = field(default_factory=list)
    """Seconds from each kill to the next sync that the victim takes part in, where it was not killed again before."""
    joins: int = 0
    steps: int = 0
    """Inner steps that all workers would have taken without faults."""
    lost: int = 0
    """Inner steps of these that no worker has taken, or that were thrown away."""
    participants: int = 0
    """Workers that took part in a sync, added up over all syncs."""
    living: int = 0
    """Workers that lived then: all but those that were killed and had not come back to meet the others."""

    def add(self, other: "Figures") -> None:
        self.faults += other.faults
        for name in ("syncs", "digests", "joins", "steps", "lost", "participants", "living"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("mismatches", "commits", "recoveries"):
            getattr(self, name).extend(getattr(other, name))

    def of_phase(self, phase: str) -> int:
        return sum(count for (where, _), count in self.faults.items() if where == phase)

    def missing(self, *, per_phase: int, total: int, kinds: Sequence[str] = ()) -> list[str]:
        """What has not been struck often enough, or in a phase not by each of `kinds`, in words."""
        short = [f"{phase} ({self.of_phase(phase)})" for phase in FAILPOINTS if self.of_phase(phase) < per_phase]
        words = [f"struck fewer than {per_phase} times: {', '.join(short)}"] if short else []
        if unseen := [f"{kind} in {phase}" for phase in FAILPOINTS for kind in kinds if not self.faults[phase, kind]]:
            words.append(f"never: {', '.join(unseen)}")
        if self.faults.total() < total:
            words.append(f"{self.faults.total()} faults instead of {total}")
        return words

    @property
    def efficiency(self) -> float:
        return 1 - self.lost / self.steps

    @property
    def share(self) -> float:
        """Share of the living workers that take part in a sync."""
        return self.participants / self.living

    def summary(self) -> dict[str, Any]:
        """JSON values."""
        kinds = sorted({kind for _, kind in self.faults})
        return {
            "faults": self.faults.total(),
            "faults_by_phase": {phase: {k: self.faults[phase, k] for k in kinds} for phase in FAILPOINTS},
            "syncs": self.syncs,
            "digests": self.digests,
            "mismatches": self.mismatches,
            "joins": self.joins,
            "step_efficiency": round(self.efficiency, 4),
            "share_of_the_living": round(self.share, 4),
            "seconds_to_next_commit": spread(self.commits),
            "seconds_to_return": spread(self.recoveries),
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 2),
        "p90": round(ordered[int(0.9 * (len(ordered) - 1))], 2),
        "most": round(ordered[-1], 2),
    }


def lines_of(folder: RunFolder, *, since: float = 0.0) -> list[dict[str, Any]]:
    """The lines of metrics of all workers in the order of their times.

    Args:
        since: seconds since 1970; what comes before is left out.
    """
    lines = [line for path in folder.metrics_files().values() for line in read_lines(path) if line["time"] >= since]
    return sorted(lines, key=lambda line: line["time"])


def judge(folder: RunFolder, *, workers: int, steps: int, since: float = 0.0) -> Figures:
    """The figures of a run that has ended: see `figures_of` and `lines_of`."""
    return figures_of(lines_of(folder, since=since), workers=workers, steps=steps)


def figures_of(lines: Sequence[Mapping[str, Any]], *, workers: int, steps: int) -> Figures:
    """The figures of a run that has ended.

    Args:
        lines: of metrics, see `lines_of`.
        workers: K.
        steps: of each worker.
    """
    syncs, joins, faults = (
        [line for line in lines if line.get("event") == event] for event in ("sync", "join", "fault")
    )
    anchors: dict[tuple[int, int, int], dict[str, list[int]]] = {}
    for line in syncs:
        place = (line["attempt"], line["step"], line["fragment"])
        anchors.setdefault(place, {}).setdefault(line["digest"], []).append(line["worker"])
    kills = [line for line in faults if line["kind"] == "kill"]
    participants, living = _taking_part(lines, workers)
    return Figures(
        faults=Counter((line["phase"], line["kind"]) for line in faults),
        syncs=len(anchors),
        digests=len(syncs),
        mismatches=[f"step {p[1]}, fragment {p[2]}: {held}" for p, held in anchors.items() if len(held) > 1],
        commits=[taken for kill in kills if (taken := _until(kill, syncs, same_worker=False)) is not None],
        recoveries=_recoveries(kills, syncs),
        joins=len(joins),
        steps=workers * steps,
        lost=lost_steps(lines, workers=workers, steps=steps),
        participants=participants,
        living=living,
    )


def _taking_part(lines: Iterable[Mapping[str, Any]], workers: int) -> tuple[int, int]:
    """See `Figures.participants` and `Figures.living`."""
    participants, living, away = 0, 0, set[int]()
    seen = set[tuple[int, int, int]]()
    for line in lines:
        match line.get("event"):
            case "fault" if line["kind"] == "kill":
                away.add(line["worker"])
            case "state" if line["state"] == State.MEETING:
                away.discard(line["worker"])
            case "sync" if (place := (line["attempt"], line["step"], line["fragment"])) not in seen:
                seen.add(place)
                participants += line["participants"]
                living += max(line["participants"], workers - len(away))
    return participants, living


def _until(kill: Mapping[str, Any], lines: Iterable[Mapping[str, Any]], *, same_worker: bool) -> float | None:
    """Seconds from a kill to the first of these lines of its victim, or of the others."""
    later = (
        line["time"] - kill["time"]
        for line in lines
        if line["time"] > kill["time"] and (line["worker"] == kill["worker"]) == same_worker
    )
    return next(later, None)


def _recoveries(kills: Sequence[Mapping[str, Any]], syncs: Sequence[Mapping[str, Any]]) -> list[float]:
    found = []
    for kill in kills:
        back = _until(kill, syncs, same_worker=True)
        again = _until(kill, kills, same_worker=True)
        if back is not None and (again is None or back < again):
            found.append(back)
    return found
