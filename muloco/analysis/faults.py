"""An estimate of a run with faults: a small model of rounds, kills and returns. It needs nothing but Python.

Workers take the inner steps of a window side by side, meet, and exchange. A worker that is killed stops answering; the
others go on without it once `heartbeat_timeout` has passed since then, or at their next sync if that is later. It
comes back after some seconds, takes over the state of another one at the next sync, and takes part in the one after.
`python -m tests.simulation.calibrate` compares the model with the engine itself in simulated time and with measured
runs (docs/fault-tolerance.md).
"""

import itertools
import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

LONGEST, MOST_KILLS = 20, 30_000
"""A run is given up that takes so many times as long as without faults, or that has met so many kills."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How a run goes without faults, and how it reacts to them. Times are in seconds."""

    workers: int
    """Number of workers, K."""
    window: int
    """Inner steps from one sync to the next one: H over the number of fragments."""
    step: float
    """Duration of an inner step."""
    delay: int = 0
    """Number of inner steps that run beside an exchange, tau."""
    exchange: float = 0.0
    """Duration of the exchange of a sync."""
    transfer: float = 0.0
    """Time that a worker that comes back needs to take over the state of another one."""
    heartbeat_timeout: float = 3.0
    """Time without a sign of life after which the others go on without a worker."""
    exchange_timeout: float = 60.0
    """Time after which the others give up connecting with a worker that was killed after it had asked to meet them."""
    breaks: float = 0.0
    """Time from a kill to the failure of an exchange that is under way."""
    checkpoint: int = 0
    """Syncs between two checkpoints, to which the run returns if all workers are lost; 0: there are none, and it
    returns to the start."""

    @property
    def alone(self) -> float:
        """Duration of a window and its sync without faults."""
        return max(self.window * self.step, (self.window - self.delay) * self.step + self.exchange)


class Kill(NamedTuple):
    """A worker is killed."""

    time: float
    """Time of the kill, in seconds since the start of the run."""
    worker: int
    away: float
    """Seconds until it meets the others again."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The course of a run with faults."""

    efficiency: float
    """Inner steps that a sync takes in, as a share of those of all workers without faults."""
    share: float
    """Share of the living workers that take part in a sync: those that have just come back do not."""
    slowdown: float
    """Duration as a multiple of that without faults."""
    kills: int
    lost: float
    """Seconds by which a kill delays the run."""
    next_sync: float
    """Median of the seconds from a kill to the next sync of the others."""
    longest: float
    """Longest time for which all stood still at a sync, in seconds."""

    @property
    def throughput(self) -> float:
        """Useful inner steps an hour, as a share of those without faults."""
        return self.efficiency / self.slowdown


def poisson(workers: int, per_hour: float, *, away: float, seed: int) -> Iterator[Kill]:
    """Draws when workers are killed, without an end: each at any moment alike, independently of the others.

    Args:
        workers: K.
        per_hour: faults of each worker in an hour.
        away: seconds from a kill to where the worker meets the others again.
        seed: of the draw.
    """
    random, now = Random(seed), 0.0
    while per_hour > 0:
        now += random.expovariate(workers * per_hour / 3600)
        yield Kill(now, random.randrange(workers), away)


def forecast(pace: Pace, kills: Iterable[Kill], *, syncs: int) -> Forecast:
    """Follows a run through its syncs, or until it is given up.

    Args:
        pace: of the run.
        kills: in the order of their times; those of a worker that is away already are left out.
        syncs: number of syncs of the run.
    """
    left, away = _Kills(kills), dict[int, float]()
    struck, waits, longest = 0, list[float](), 0.0
    done = useful = 0  # syncs, and workers that took part in them
    unsaved: list[int] = []  # workers that took part in each sync since the newest checkpoint
    took_part = lived = 0
    begins, late = 0.0, 0.0  # when a window begins, and how much later that of workers which have just come back
    while done < syncs and begins < LONGEST * syncs * pace.alone and left.taken < MOST_KILLS:
        if not away and not late:  # nothing happens in the windows until the next kill
            quiet = int(min(syncs - done, max(0.0, (left.next.time - begins) / pace.alone - 1)))
            begins += quiet * pace.alone
            done += quiet
            useful, took_part, lived = (total + quiet * pace.workers for total in (useful, took_part, lived))
            unsaved += [pace.workers] * min(quiet, pace.checkpoint or syncs)
            if pace.checkpoint:
                del unsaved[: len(unsaved) - done % pace.checkpoint]
            if done == syncs:
                break
        asks = meet = begins + late + (pace.window - pace.delay) * pace.step
        undisturbed = max(meet + pace.exchange, begins + late + pace.window * pace.step)
        pending = []
        while left.next.time < meet + pace.exchange and len(away) < pace.workers:
            kill = left.take()
            if away.get(kill.worker, 0.0) > kill.time:
                continue
            struck += 1
            pending.append(kill.time)
            missed = kill.time + pace.heartbeat_timeout
            if kill.time > meet:  # the exchange breaks, and they meet again
                asks = kill.time + pace.breaks
                meet = max(missed, asks)
            elif kill.time > asks or kill.worker in away:  # it has asked to meet, and the others try to connect with it
                if meet < missed:
                    asks = meet = max(missed, meet + pace.exchange_timeout)
            else:
                meet = max(meet, missed)
            away[kill.worker] = kill.time + kill.away
        if len(away) == pace.workers:  # nobody holds the state of the run any more
            begins, late = max(away.values()), 0.0
            done, useful = done - len(unsaved), useful - sum(unsaved)
            unsaved.clear()
            away.clear()
            continue
        commits = meet + pace.exchange
        applied = max(commits, begins + late + pace.window * pace.step)
        waits += [(begins if time < begins else applied) - time for time in pending]
        longest = max(longest, applied - undisturbed)
        members = pace.workers - len(away)
        took_part += members
        lived += pace.workers - sum(when > commits for when in away.values())
        back = [worker for worker, when in away.items() if when <= meet]
        for worker in back:
            del away[worker]
        begins, late = applied, pace.transfer if back else 0.0
        done, useful = done + 1, useful + members
        unsaved.append(members)
        if pace.checkpoint and done % pace.checkpoint == 0:
            unsaved.clear()
    return Forecast(
        efficiency=useful / (pace.workers * done) if done else 0.0,
        share=took_part / lived if lived else 0.0,
        slowdown=begins / (pace.alone * done) if done else math.inf,
        kills=struck,
        lost=max(0.0, begins - pace.alone * done) / struck if struck else 0.0,
        next_sync=statistics.median(waits) if waits else 0.0,
        longest=longest,
    )


class _Kills:
    """Kills one by one, after which nothing happens any more."""

    def __init__(self, kills: Iterable[Kill]):
        self._kills = itertools.chain(kills, itertools.repeat(Kill(math.inf, 0, 0.0)))
        self.next = next(self._kills)
        self.taken = 0

    def take(self) -> Kill:
        self.taken += 1
        kill, self.next = self.next, next(self._kills)
        return kill
