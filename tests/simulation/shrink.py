"""The shortest schedule that fails in the same way as a given one."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace

from tests.simulation.faults import Schedule
from tests.simulation.run import Outcome

LONGEST_SEARCH = 400
"""Most runs of a search."""


def kind_of(outcome: Outcome) -> str:
    """Returns how a run has failed, without numbers; empty if it has not."""
    if outcome.failure is None:
        return ""
    return f"{type(outcome.failure).__name__}: {re.sub(r'[0-9]+([.][0-9]+)?', '#', str(outcome.failure))[:60]}"


def shrink(schedule: Schedule) -> Schedule:
    """Returns the shortest schedule found that fails in the same way: with fewer and earlier faults, fewer workers and
    fewer rounds. If it does not fail, it is returned as it is."""
    wanted, runs = kind_of(schedule.run()), 0
    found = bool(wanted)
    while found:
        found = False
        for shorter in _shorter(schedule):
            runs += 1
            if runs > LONGEST_SEARCH:
                return schedule
            if kind_of(shorter.run()) == wanted:
                schedule, found = shorter, True
                break
    return schedule


def _shorter(schedule: Schedule) -> Iterator[Schedule]:
    """Yields shorter schedules, the shortest first."""
    shape, faults = schedule.shape, schedule.faults
    for index in range(len(faults)):
        yield replace(schedule, faults=faults[:index] + faults[index + 1 :])
    named = [number for fault in faults for number in (fault.worker, fault.other)]
    if shape.workers > max(2, shape.least, 1 + max(named, default=0)):
        yield replace(schedule, shape=replace(shape, workers=shape.workers - 1))
    if shape.rounds > 1:
        yield replace(schedule, shape=replace(shape, rounds=shape.rounds - 1))
    if shape.ranks > 1 + max((fault.rank for fault in faults), default=0):
        yield replace(schedule, shape=replace(shape, ranks=shape.ranks - 1))
    for change in (
        {"compressed": False},
        {"hasty": False},
        {"shares": False},
        {"save_every": 0},
        {"fragments": 1},
        {"delay": 0},
        {"interval": 1},
    ):
        simpler = replace(shape, **change)
        if simpler != shape and simpler.interval > simpler.delay * simpler.fragments:
            yield replace(schedule, shape=simpler)
    for index, fault in enumerate(faults):
        for point in (fault.point // 2, fault.point * 7 // 8, fault.point - 1):
            if 0 < point < fault.point:
                earlier = replace(fault, point=point)
                yield replace(schedule, faults=(*faults[:index], earlier, *faults[index + 1 :]))
        for name in ("seconds", "amount"):
            value = getattr(fault, name)
            if 1 < value < math.inf:
                rounded = replace(fault, **{name: float(int(value // 1.5))})
                yield replace(schedule, faults=(*faults[:index], rounded, *faults[index + 1 :]))
