"""Many schedules, in several processes."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

from tests.simulation.faults import draw
from tests.simulation.shrink import kind_of

CHUNK = 50


@dataclass
class Tally:
    """What has come of many schedules."""

    schedules: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    commits: int = 0
    faults: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    """How each failing seed has failed."""
    started: float = field(default_factory=time.monotonic)
    cpu_seconds: float = 0.0

    @property
    def an_hour(self) -> float:
        """Schedules an hour so far."""
        return 3600 * self.schedules / max(1e-9, time.monotonic() - self.started)

    def summary(self) -> str:
        """Returns one line about all schedules so far."""
        ends = ", ".join(f"{count} {end}" for end, count in self.ends.most_common())
        return (
            f"{self.schedules} schedules ({ends}; {self.commits} rounds, {self.faults} faults) in "
            f"{time.monotonic() - self.started:.0f} s: {self.an_hour:,.0f} an hour, "
            f"{1000 * self.cpu_seconds / max(1, self.schedules):.0f} ms of processor time each"
        )


def run_many(first: int, *, schedules: int, minutes: float, jobs: int, workers: int | None = None) -> Iterator[Tally]:
    """Runs schedules of consecutive seeds, and yields the tally from time to time, and at the end.

    Args:
        first: the first seed.
        schedules: how many; fewer if the time is over.
        minutes: time limit.
        jobs: processes.
        workers: K; None: from 2 to 5.
    """
    tally = Tally()
    chunks = [range(start, min(start + CHUNK, first + schedules)) for start in range(first, first + schedules, CHUNK)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_run, chunk, workers) for chunk in chunks[: 2 * jobs]]
        left = iter(chunks[2 * jobs :])
        while waiting:
            ends, commits, faults, failures, seconds = waiting.pop(0).result()
            tally.schedules += sum(ends.values())
            tally.ends += ends
            tally.commits += commits
            tally.faults += faults
            tally.failures |= failures
            tally.cpu_seconds += seconds
            if time.monotonic() < tally.started + 60 * minutes and (chunk := next(left, None)) is not None:
                waiting.append(pool.submit(_run, chunk, workers))
            yield tally


def _run(seeds: range, workers: int | None) -> tuple[Counter[str], int, int, dict[int, str], float]:
    ends: Counter[str] = Counter()
    commits, faults, failures, started = 0, 0, {}, time.process_time()
    for seed in seeds:
        schedule = draw(seed, workers=workers)
        outcome = schedule.run()
        ends[outcome.end] += 1
        commits += outcome.commits
        faults += len(schedule.faults)
        if outcome.failure is not None:
            failures[seed] = kind_of(outcome)
    return ends, commits, faults, failures, time.process_time() - started
