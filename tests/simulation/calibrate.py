"""Compares the simulation with measured storms, and the model of `muloco plan --faults` with both.

    python -m tests.simulation.calibrate [PART ...]

The storms of `results/storm` are repeated with the engine itself in simulated time: with the same schedule of faults
(`muloco.training.chaos`), the same timeouts, and measured costs. A storm that has recorded its costs and when it began
is repeated as it was. For one that has not, absences after a kill are chosen so that the times from a kill to the
return are met, and its schedule begins anywhere. Inner steps are as long as it takes to meet the duration of a run.
What is compared is not used for this: step efficiency, the share of the workers that take part in a sync, and the time
from a kill to the others' next sync.

The model is compared with the storms, by the faults that have struck in simulated time, and with simulated runs of K
workers that are killed at random, of which it knows when each is killed.

Prints the result, and writes it to results/simulation/calibration.json.
"""

import argparse
import importlib
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from muloco.analysis.faults import Forecast, Kill, Pace, forecast, poisson
from muloco.settings.fault_tolerance import Chaos
from muloco.training.chaos import FaultSchedule
from tests.simulation.costs import Costs
from tests.simulation.storm import Course, strike, weather
from tests.simulation.toy import Shape

CHECKOUT = Path(__file__).parents[2]
RESULT = CHECKOUT / "results" / "simulation" / "calibration.json"
STORMS = {"brief": 8, "four": 7, "many": 3, "pairs": 8}
"""How many runs of each storm are simulated."""
FITS = 3
"""How often costs are corrected."""
MESSAGE_SECONDS = 0.0005
"""See `Costs.message_seconds`: the workers of the storms were processes of one machine."""
MONTH = 30 * 24 * 3600
IN_EXCHANGE = ("headers", "scatter", "gather", "vote")
"""Phases in which the others wait for a worker that stands still for less than the exchange timeout."""
RANDOM = {2: (30.0, 60, 12), 4: (30.0, 60, 8), 8: (30.0, 40, 6), 64: (6.0, 16, 2)}
"""By K, how often each worker is killed in an hour, the syncs of each simulated run, and the number of runs."""
AWAY_SECONDS, STEP_SECONDS, WINDOW = 15.0, (0.95, 1.05), 10
HEARTBEAT_SECONDS = 3.0
LINK = "tau = 0", "unshaped, tau = 0"
"""Runs of `results/overhead/link.json`: over a shaped link, and over a fast one."""


def benchmark(name: str) -> Any:
    """A module of benchmarks/."""
    if (folder := str(CHECKOUT / "benchmarks")) not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def result(path: str) -> dict[str, Any]:
    """A committed result."""
    return json.loads((CHECKOUT / "results" / path).read_text())


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The simulated runs of a storm."""

    name: str
    shape: Shape
    away: tuple[float, float]
    """Shortest and longest time from a kill to where the worker meets the others again, in seconds."""
    courses: Sequence[Course]

    @property
    def figures(self) -> Any:
        """`storm_judge.Figures` of all of them."""
        return judged(self.shape, self.courses)

    @property
    def seconds(self) -> float:
        """Mean duration of a run."""
        return statistics.mean(course.seconds for course in self.courses)


def judged(shape: Shape, courses: Iterable[Course]) -> Any:
    """`storm_judge.Figures` of simulated runs."""
    judge = benchmark("storm_judge")
    figures = judge.Figures()
    for course in courses:
        figures.add(judge.figures_of(course.lines, workers=shape.workers, steps=shape.steps))
    return figures


def settings(name: str) -> dict[str, Any]:
    """The config fields of a storm."""
    storm = benchmark("storm")
    return storm.SETTINGS | storm.TIMEOUTS | dict(storm.STORMS[name].settings)


def shape_of(name: str, step: float, spread: float, validation: float) -> Shape:
    """The shape of a run of a storm.

    Args:
        name: of the storm.
        step: mean seconds of an inner step.
        spread: the most by which one is longer or shorter, as a share of it.
        validation: see `Costs`.
    """
    chosen = settings(name)
    ft = {key.removeprefix("fault_tolerance."): value for key, value in chosen.items()}
    return Shape(
        workers=ft["group_size"],
        interval=ft["sync_steps"],
        fragments=ft["num_fragments"],
        delay=ft["fragment_sync_delay"],
        rounds=chosen["training.steps"] // ft["sync_steps"],
        save_every=chosen["checkpoint.interval"],
        costs=Costs(
            step_seconds=(step * (1 - spread), step * (1 + spread)),
            validation_seconds=validation,
            message_seconds=MESSAGE_SECONDS,
            quorum_timeout=ft["quorum_timeout_seconds"],
            straggler_timeout=ft["straggler_timeout_seconds"],
            exchange_timeout=ft["exchange_timeout_seconds"],
            heartbeat_timeout=ft["heartbeat_timeout_seconds"],
        ),
    )


def replay(name: str, shape: Shape, away: tuple[float, float], begins: Sequence[float], seeds: int) -> Replay:
    """Simulates the runs of a storm, each of which begins at a time (seconds since 1970).

    Args:
        seeds: number of seeds of the schedule of faults, which are taken in turn.
    """
    storm, chosen, courses = benchmark("storm").STORMS[name], settings(name), []
    for seed, began in enumerate(begins):
        chaos = Chaos(interval_seconds=storm.interval, stop_seconds=chosen["chaos.stop_seconds"], seed=seed % seeds)
        schedule = FaultSchedule(chaos, workers=shape.workers)
        courses.append(weather(shape, schedule, seed=seed, begins=began, away_seconds=away))
    return Replay(name=name, shape=shape, away=away, courses=courses)


def repeat(name: str, runs: int, overhead: float) -> Replay:
    """Repeats a storm with its costs.

    Args:
        name: of the storm.
        runs: number of simulated runs.
        overhead: seconds of a run before and after what its workers log.
    """
    found = result(f"storm/{name}.json")
    costs, back = found.get("costs"), found["seconds_to_return"]
    duration = found["seconds"] / found["runs"] - overhead
    random, seeds = Random(name), found["runs"]
    begins = [random.uniform(0, MONTH) for _ in range(runs)]
    step, spread, validation = 0.5, 0.2, 0.0
    away = back["median"] - (back["p90"] - back["median"]), back["p90"]
    if costs:
        begins = [found["courses"][run % seeds]["began"] for run in range(runs)]
        each, around = (costs[f"{what}_seconds"] for what in ("inner_step", "step_with_sync"))
        step, spread = each["median"], (each["p90"] - each["p10"]) / (each["p90"] + each["p10"])
        validation = max(0.0, around["median"] - each["median"]) / 2
        away = costs["away_seconds"]["p10"], costs["away_seconds"]["p90"]
    for _ in range(FITS):
        again = replay(name, shape_of(name, step, spread, validation), away, begins, seeds)
        step += (duration - again.seconds) / again.shape.steps
        late = 0.0 if costs else back["median"] - statistics.median(again.figures.recoveries)
        away = max(1.0, away[0] + late), away[1] + late
    return again


def planned(again: Replay) -> list[Forecast]:
    """What the model says of simulated runs of a storm, by the faults that have struck."""
    shape, costs = again.shape, again.shape.costs
    window = shape.interval // shape.fragments
    pace = Pace(
        workers=shape.workers,
        window=window,
        step=statistics.mean(costs.step_seconds) + 2 * costs.validation_seconds / window,
        delay=shape.delay,
        heartbeat_timeout=costs.heartbeat_timeout,
        exchange_timeout=costs.exchange_timeout,
        checkpoint=1,
    )
    stop = settings(again.name)["chaos.stop_seconds"]
    found = []
    for course in again.courses:
        began = next(line["time"] for line in course.lines if line["event"] == "sync") - pace.alone
        kills = []
        for line in course.lines:
            if line["event"] == "fault":
                waits = line["kind"] == "cut" or (line["kind"] == "stop" and line["phase"] in IN_EXCHANGE)
                away = 0.0 if waits else stop if line["kind"] == "stop" else statistics.mean(again.away)
                kills += [Kill(line["time"] - began, line["worker"], away)] * (away > 0)
        found.append(forecast(pace, kills, syncs=shape.steps // window))
    return found


def storm(name: str, runs: int, overhead: float) -> dict[str, Any]:
    """Compares a storm with its simulation and with the model."""
    found, again = result(f"storm/{name}.json"), repeat(name, runs, overhead)
    figures, forecasts, shape = again.figures, planned(again), again.shape
    return {
        "runs": {"measured": found["runs"], "simulated": len(again.courses)},
        "costs": {
            "inner_step_seconds": [round(seconds, 3) for seconds in shape.costs.step_seconds],
            "validation_seconds": round(shape.costs.validation_seconds, 3),
            "away_seconds": [round(seconds, 1) for seconds in again.away],
            "heartbeat_timeout": shape.costs.heartbeat_timeout,
        },
        "faults_a_run": _beside(found["faults"] / found["runs"], figures.faults.total() / len(again.courses)),
        "seconds_to_return": _beside(found["seconds_to_return"]["median"], statistics.median(figures.recoveries)),
        "step_efficiency": _beside(
            found["step_efficiency"], figures.efficiency, statistics.mean(each.efficiency for each in forecasts)
        ),
        "share_of_all": _beside(
            found["digests"] / found["syncs"] / shape.workers, figures.digests / figures.syncs / shape.workers
        ),
        "share_of_the_living": _beside(
            found.get("share_of_the_living"), figures.share, statistics.mean(each.share for each in forecasts)
        ),
        "seconds_to_next_sync": _beside(found["seconds_to_next_commit"]["median"], statistics.median(figures.commits)),
    }


def _beside(measured: float | None, simulated: float, planned: float | None = None) -> dict[str, float | None]:
    named = {"measured": measured, "simulated": simulated, "planned": planned}
    return {name: None if value is None else round(value, 4) for name, value in named.items()}


def random_shape(workers: int, syncs: int) -> Shape:
    """The shape of a run whose workers are killed at random."""
    costs = Costs(step_seconds=STEP_SECONDS, heartbeat_timeout=HEARTBEAT_SECONDS, straggler_timeout=300.0)
    return Shape(workers=workers, interval=WINDOW, rounds=syncs, save_every=WINDOW, costs=costs)


def random_pace(workers: int) -> tuple[Pace, float]:
    """The pace of such a run, from a simulated one without faults, and when its first window begins."""
    course = strike(random_shape(workers, 4), [], seed=0)
    first: dict[int, float] = {}
    for line in course.lines:
        if line["event"] == "sync":
            first.setdefault(line["step"], line["time"])
    times, step = list(first.values()), statistics.mean(STEP_SECONDS)
    each = (times[-1] - times[0]) / (len(times) - 1)
    costs = random_shape(workers, 4).costs
    pace = Pace(
        workers=workers,
        window=WINDOW,
        step=step,
        exchange=each - WINDOW * step,
        heartbeat_timeout=costs.heartbeat_timeout,
        exchange_timeout=costs.exchange_timeout,
        checkpoint=1,
    )
    return pace, times[0] - each


def random_kills(workers: int, per_hour: float, syncs: int, seed: int) -> list[Kill]:
    """Kills from before the first sync to after the last one, counted from the beginning of the first window."""
    kills = poisson(workers, per_hour, away=AWAY_SECONDS, seed=seed)
    return list(itertools.takewhile(lambda kill: kill.time < 4 * syncs * WINDOW, kills))


def kill_at_random(workers: int, per_hour: float, *, syncs: int, runs: int) -> dict[str, Any]:
    """Compares the model with simulated runs whose workers are killed at random."""
    pace, began = random_pace(workers)
    shape, courses, forecasts = random_shape(workers, syncs), [], []
    started = time.process_time()
    for seed in range(runs):
        kills = random_kills(workers, per_hour, syncs, seed)
        courses.append(strike(shape, [kill._replace(time=kill.time + began) for kill in kills], seed=seed))
        forecasts.append(forecast(pace, kills, syncs=syncs))
    figures = judged(shape, courses)
    return {
        "kills_per_hour": per_hour,
        "runs": runs,
        "syncs": syncs,
        "faults": figures.faults.total(),
        "step_efficiency": _both(figures.efficiency, statistics.mean(each.efficiency for each in forecasts)),
        "share_of_the_living": _both(figures.share, statistics.mean(each.share for each in forecasts)),
        "slowdown": _both(
            statistics.mean(course.seconds - began for course in courses) / (pace.alone * syncs),
            statistics.mean(each.slowdown for each in forecasts),
        ),
        "window_seconds": round(pace.alone, 2),
        "cpu_seconds_a_run": round((time.process_time() - started) / runs, 1),
    }


def _both(simulated: float, planned: float) -> dict[str, float]:
    return {"simulated": round(simulated, 4), "planned": round(planned, 4)}


def shaped_link() -> dict[str, float]:
    """Seconds of an exchange of two workers over a link of a given rate, without those over a fast one."""
    found = result("overhead/link.json")
    shaped, fast = (found["variants"][name] for name in LINK)
    shape = Shape(workers=2, interval=2, rounds=3, costs=Costs(message_seconds=MESSAGE_SECONDS))

    def waited(of: Shape) -> tuple[float, float]:
        lines = [line for line in strike(of, [], seed=0).lines if line["event"] == "sync" and line["worker"] == 0]
        return (statistics.median(line[name] for line in lines) for name in ("seconds_waited", "bytes_sent"))

    without, sent = waited(shape)
    rate = found["measured_megabits"] * 1e6 / 8 * sent / shaped["bytes_a_sync"]
    with_link, _ = waited(replace(shape, costs=replace(shape.costs, bytes_per_second=rate)))
    return {
        "megabits": found["measured_megabits"],
        "bytes": shaped["bytes_a_sync"],
        "measured": round(shaped["waited"] - fast["waited"], 3),
        "simulated": round(with_link - without, 3),
    }


def main() -> int:
    """Returns the exit status, 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.calibrate", description=__doc__.splitlines()[0])
    parts = [*STORMS, *map(str, RANDOM), "link"]
    meaning = f"{', '.join(parts)} (default: all); the other results are kept"
    parser.add_argument("parts", nargs="*", metavar="PART", default="all", choices=[*parts, "all"], help=meaning)
    chosen = parser.parse_args().parts
    brief = result("storm/brief.json")
    overhead = brief["seconds"] / brief["runs"] - statistics.mean(course["seconds"] for course in brief["courses"])
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {"storms": {}, "random": {}}
    found = {"command": "python -m tests.simulation.calibrate", **found}
    for part in parts if "all" in chosen else chosen:
        if part in STORMS:
            found["storms"][part] = new = storm(part, STORMS[part], overhead)
        elif part == "link":
            found["link"] = new = shaped_link()
        else:
            per_hour, syncs, runs = RANDOM[int(part)]
            found["random"][part] = new = kill_at_random(int(part), per_hour, syncs=syncs, runs=runs)
        sys.stdout.write(f"{part}: {json.dumps(new)}\n")
        sys.stdout.flush()
        RESULT.write_text(f"{json.dumps(found, indent=1)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
