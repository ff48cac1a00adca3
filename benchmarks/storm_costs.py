"""What things cost in a storm, measured from the metrics of its runs: the simulation is calibrated with it."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from muloco.runs.states import State


def costs(runs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Returns seconds of inner steps, syncs, exchanges, and of absences after a kill.

    Args:
        runs: the lines of metrics of each run in the order of their times (`storm_judge.lines_of`).
    """
    steps, around, exchanges, away = [], [], [], []
    for lines in runs:
        for worker in {line["worker"] for line in lines}:
            own = [line for line in lines if line["worker"] == worker]
            steps += _steps(own)
            around += _around_syncs(own)
            exchanges += [line["seconds_waited"] + line["seconds_hidden"] for line in own if _is(line, "sync")]
            away += _away(own)
    return {
        "inner_step_seconds": _spread(steps),
        "step_with_sync_seconds": _spread(around),
        "round_seconds": _spread(exchanges),
        "away_seconds": _spread(away),
    }


def struck(lines: Iterable[Mapping[str, Any]], began: float) -> list[str]:
    """Returns the faults of a run in words, with the seconds since it began."""
    return [
        f"{line['time'] - began:.1f} s: worker {line['worker']}, {line['kind']} in {line['phase']}"
        for line in lines
        if _is(line, "fault")
    ]


def _is(line: Mapping[str, Any], event: str) -> bool:
    return line.get("event") == event


def _steps(own: Iterable[Mapping[str, Any]]) -> list[float]:
    """Seconds from an inner step to the next one, if nothing else was between them."""
    found, before = [], None
    for line in own:
        if "loss" in line:
            if before is not None:
                found.append(line["time"] - before)
            before = line["time"]
        else:
            before = None
    return found


def _around_syncs(own: Iterable[Mapping[str, Any]]) -> list[float]:
    """Seconds from an inner step to the next one, if a sync was between them, without what it waited for the others."""
    found, before, waited = [], None, None
    for line in own:
        if "loss" in line:
            if before is not None and waited is not None:
                found.append(line["time"] - before - waited)
            before, waited = line["time"], None
        elif _is(line, "sync"):
            waited = line["seconds_waited"]
        elif _is(line, "fault"):
            before = None
    return found


def _away(own: Iterable[Mapping[str, Any]]) -> list[float]:
    """Seconds from each kill to where the worker meets the others again: the supervisor's pause, and the start."""
    found, killed = [], None
    for line in own:
        if _is(line, "fault") and line["kind"] == "kill":
            killed = line["time"]
        elif _is(line, "state") and line["state"] == State.MEETING and killed is not None:
            found.append(line["time"] - killed)
            killed = None
    return found


def _spread(values: Sequence[float]) -> dict[str, float]:
    """A tenth, the median and nine tenths, for a few values the extremes."""
    if not values:
        return {}
    ordered, last = sorted(values), len(values) - 1
    return {
        "p10": round(ordered[round(0.1 * last)], 3),
        "median": round(statistics.median(ordered), 3),
        "p90": round(ordered[round(0.9 * last)], 3),
    }
