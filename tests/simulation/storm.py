"""A storm (`benchmarks/storm.py`) in simulated time: the real schedule of faults strikes simulated workers."""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from muloco import failpoints
from muloco.training.chaos import FaultInjector, FaultSchedule
from tests.simulation.run import FIRST_BACK_OFF, LONGEST_BACK_OFF, Run
from tests.simulation.toy import Shape
from tests.simulation.world import Process

MOST_EVENTS = 100_000_000
STABLE_SECONDS = 60.0
"""See `muloco.launch.pool`."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a run went."""

    lines: list[dict[str, Any]]
    """What its workers have logged, in order of time, as lines of metrics (`muloco.runs.folder`)."""
    seconds: float
    """From its start to its end."""


class Start:
    """How long a worker that was killed needs to meet the others again: the supervisor's pause before it starts the
    worker, which doubles if the worker has run for less than a minute, and the start itself.

    Args:
        run: of the workers.
        seconds: shortest and longest start.
    """

    def __init__(self, run: Run, seconds: tuple[float, float]):
        self._run, self._seconds = run, seconds
        self._started: Counter[int] = Counter()
        self._back_off: dict[int, float] = {}

    def __call__(self, worker: int) -> float:
        world = self._run.world
        stable = world.now - self._started[worker] > STABLE_SECONDS
        pause = FIRST_BACK_OFF if stable else self._back_off.get(worker, FIRST_BACK_OFF)
        self._back_off[worker] = min(2 * pause, LONGEST_BACK_OFF)
        self._started[worker] = world.now + pause
        return pause + world.random.uniform(*self._seconds)


def weather(
    shape: Shape, schedule: FaultSchedule, *, seed: int, begins: float, start_seconds: tuple[float, float]
) -> Course:
    """Runs a storm.

    Args:
        shape: of the run.
        schedule: of the faults, as of real workers.
        seed: of the world.
        begins: the time at which the run begins, in seconds since 1970, which decides where the schedule begins.
        start_seconds: see `Start`.
    """
    run = Run(shape, seed)
    starts = Start(run, start_seconds)
    injectors: dict[Process, FaultInjector] = {}

    def listen(phase: str) -> None:
        process = run.world.here().process
        if process not in injectors:
            worker = int(process.machine[1:])
            injectors[process] = _Injector(run, schedule, worker, begins=begins, restart=starts)
        injectors[process](phase)

    with _listener(listen):
        return _carry_out(run)


def strike(
    shape: Shape, kills: Sequence[tuple[float, int]], *, seed: int, start_seconds: tuple[float, float]
) -> Course:
    """Runs a run whose workers are killed at given times.

    Args:
        shape: of the run.
        kills: seconds after the start of the run, and a worker; one that does not run then is left out.
        seed: of the world.
        start_seconds: see `Start`.
    """
    run = Run(shape, seed)
    starts = Start(run, start_seconds)

    def kill(worker: int) -> None:
        process = run.processes.get(worker)
        if process is not None and process.alive and worker in run.workers:
            run.log(worker, run.workers[worker].step, "fault", kind="kill", phase="inner_step")
            run.kill(worker, restart=starts(worker), state="newest")

    for seconds, worker in kills:
        run.world.at(seconds, lambda worker=worker: kill(worker))
    return _carry_out(run)


def _carry_out(run: Run) -> Course:
    """Workers may be stopped for longer than all timeouts, and nothing limits the time until the next commit, which is
    what is measured."""
    run.world.seconds, run.world.most_events = math.inf, MOST_EVENTS
    run.ledger.disturbed = run.ledger.quiet = math.inf
    outcome = run.carry_out()
    if outcome.failure is not None:
        raise outcome.failure
    return Course(lines=run.lines, seconds=max(line["time"] for line in run.lines))


class _Injector(FaultInjector):
    """Strikes a simulated process."""

    def __init__(
        self, run: Run, schedule: FaultSchedule, worker: int, *, begins: float, restart: Callable[[int], float]
    ):
        self._run, self._begins, self._restart = run, begins, restart
        super().__init__(
            schedule=schedule,
            worker=worker,
            rank=0,
            earlier=[
                begins + line["time"] for line in run.lines if line["event"] == "fault" and line["worker"] == worker
            ],
            cut=lambda: run.workers[worker].transport.cut(),
            tell=lambda kind, phase: run.log(worker, run.workers[worker].step, "fault", kind=kind, phase=phase),
        )

    def _now(self) -> float:
        return self._begins + self._run.world.now

    def _strike(self, kind: str, phase: str) -> None:
        run, world = self._run, self._run.world
        self.tell(kind, phase)
        if kind == "kill":
            run.kill(self.worker, restart=self._restart(self.worker), state="newest")
            world.here()
        elif kind == "stop":
            process = run.processes[self.worker]
            process.pause()
            world.at(self.schedule.chosen.stop_seconds, process.resume)
            world.point("stands still")
        else:
            self.cut()


@contextlib.contextmanager
def _listener(listen: Callable[[str], None]) -> Iterator[None]:
    """Within the context, the failpoints of the engine and of workers are heard."""
    failpoints.on_hit(listen)
    try:
        yield
    finally:
        failpoints._listeners.remove(listen)
