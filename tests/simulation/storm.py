"""A storm (`benchmarks/storm.py`) in simulated time: the real schedule of faults strikes simulated workers."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from muloco import failpoints
from muloco.analysis.faults import Kill
from muloco.training.chaos import FaultInjector, FaultSchedule
from tests.simulation.run import Run
from tests.simulation.toy import Shape
from tests.simulation.world import Process

MOST_EVENTS = 100_000_000


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a run went."""

    lines: list[dict[str, Any]]
    """What its workers have logged, in order of time, as lines of metrics (`muloco.runs.folder`)."""
    seconds: float
    """From its start to its end."""


def weather(
    shape: Shape, schedule: FaultSchedule, *, seed: int, begins: float, away_seconds: tuple[float, float]
) -> Course:
    """Runs a storm.

    Args:
        shape: of the run.
        schedule: of the faults, as of real workers.
        seed: of the world.
        begins: the time at which the run begins, in seconds since 1970, which decides where the schedule begins.
        away_seconds: shortest and longest time from a kill to where the worker meets the others again.
    """
    run = Run(shape, seed)
    injectors: dict[Process, FaultInjector] = {}

    def listen(phase: str) -> None:
        process = run.world.here().process
        if process not in injectors:
            worker = int(process.machine[1:])
            injectors[process] = _Injector(run, schedule, worker, begins=begins, away_seconds=away_seconds)
        injectors[process](phase)

    with _listener(listen):
        return _carry_out(run)


def strike(shape: Shape, kills: Sequence[Kill], *, seed: int) -> Course:
    """Runs a run whose workers are killed at given times; who does not run then is left out.

    Args:
        shape: of the run.
        kills: see `muloco.analysis.faults`.
        seed: of the world.
    """
    run = Run(shape, seed)

    def happens(kill: Kill) -> None:
        process, program = run.process(kill.worker, 0), run.program(kill.worker, 0)
        if process is not None and process.alive and program is not None:
            run.log(kill.worker, program.step, "fault", kind="kill", phase="inner_step")
            run.kill(kill.worker, 0, restart=kill.away, state="newest")

    for kill in kills:
        run.world.at(kill.time, partial(happens, kill))
    return _carry_out(run)


def _carry_out(run: Run) -> Course:
    """Workers may be stopped for longer than all timeouts, and nothing limits the time until the next commit, which is
    what is measured."""
    run.world.seconds, run.world.most_events = math.inf, MOST_EVENTS
    for ledger in run.ledgers:
        ledger.disturbed = ledger.quiet = ledger.healed = math.inf
    outcome = run.carry_out()
    if outcome.failure is not None:
        raise outcome.failure
    return Course(lines=run.lines, seconds=max(line["time"] for line in run.lines))


class _Injector(FaultInjector):
    """Strikes a simulated process."""

    def __init__(
        self, run: Run, schedule: FaultSchedule, worker: int, *, begins: float, away_seconds: tuple[float, float]
    ):
        self._run, self._begins, self._away_seconds = run, begins, away_seconds
        super().__init__(
            schedule=schedule,
            worker=worker,
            rank=0,
            earlier=[
                begins + line["time"] for line in run.lines if line["event"] == "fault" and line["worker"] == worker
            ],
            cut=lambda: run.ranks[worker].programs[0].transport.cut(),
            tell=lambda kind, phase: run.log(
                worker, run.ranks[worker].programs[0].step, "fault", kind=kind, phase=phase
            ),
        )

    def _now(self) -> float:
        return self._begins + self._run.world.now

    def _strike(self, kind: str, phase: str) -> None:
        run, world = self._run, self._run.world
        self.tell(kind, phase)
        if kind == "kill":
            run.kill(self.worker, 0, restart=world.random.uniform(*self._away_seconds), state="newest")
            world.here()
        elif kind == "stop":
            process = run.ranks[self.worker].processes[0]
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
