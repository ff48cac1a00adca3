"""Estimates of runs on machines that fail, by the number of workers and the bandwidth of their links."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from muloco.analysis.chart import Figure, Panel, Series
from muloco.analysis.draw import draw_to
from muloco.analysis.faults import Forecast, Pace, forecast, poisson
from muloco.analysis.plan import Plan, exchange_bytes
from muloco.analysis.terminal import Column, fitted
from muloco.errors import UserError
from muloco.settings.config import ResolvedConfig

RESTART_SECONDS = 17.0
"""Default for the time from a kill until the worker meets the others again, in seconds: the median of
`results/storm/brief.json`, measured with a tiny model on two CPU cores. Starting Python, torch and the model takes most
of it."""
WORKERS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
FAULTS, LEAST_SYNCS = 1000, 200
"""A run is followed for so many faults, and at least for so many syncs."""
SECONDS_PER_HOUR = 3600
FAULTS_NOTE = (
    "With faults: a worker is lost at random, with all that it has done since its last sync, and comes back after "
    "--restart. The others wait at their next sync until fault_tolerance.heartbeat_timeout_seconds have passed, and "
    "until fault_tolerance.exchange_timeout_seconds where it was lost while it waited for them or, over NCCL, in an "
    "exchange. Useful steps are those of all steps that a sync takes in. Taking part is the share of the workers that "
    "live at a sync: those that have just come back do not. A fault delays the others by the given seconds on "
    "average, and by the longest at most. Speed is that of useful steps, beside the same run without faults: too high "
    "where faults come about as often as the heartbeat timeout passes. With another number of workers, each one is as "
    "it is in the config. If all workers are lost at once, the run returns to its newest checkpoint. The lighthouse "
    "and the supervisor do not fail."
)


@dataclass(frozen=True, kw_only=True)
class Faults:
    """How often workers are lost, and for how long."""

    per_hour: float
    """Faults of each worker in an hour."""
    restart: float = RESTART_SECONDS
    """Seconds from a loss to where the worker meets the others again."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run whose faults are planned."""

    config: ResolvedConfig
    plan: Plan

    def pace(self, workers: int, gbit_per_second: float) -> Pace:
        """How the run goes with so many workers, each as in the config, on links of a bandwidth.

        Raises:
            UserError: the workers of the run share a process.
        """
        config, plan, ft = self.config, self.plan, self.config.fault_tolerance
        if config.workers > 1 and config.worker_processes == 1:
            raise UserError(
                f"--faults is for workers that fail one by one; those of {plan.name} share a process "
                "(fault_tolerance.transport in_process)"
            )
        bytes_per_second = gbit_per_second * 1e9 / 8
        checkpoint = config.checkpoint.interval if config.checkpoint.enable else 0
        if workers == 1:
            every = checkpoint or plan.steps
            step = plan.at(gbit_per_second).total / plan.steps
            return Pace(workers=1, window=every, step=step, checkpoint=bool(checkpoint))
        window = max(1, ft.sync_steps // ft.num_fragments)
        return Pace(
            workers=workers,
            window=window,
            step=plan.step_seconds,
            delay=ft.fragment_sync_delay,
            exchange=exchange_bytes(config, workers) / ft.num_fragments / bytes_per_second,
            transfer=(plan.memory.inner + plan.memory.outer) / bytes_per_second,
            heartbeat_timeout=ft.heartbeat_timeout_seconds,
            exchange_timeout=ft.exchange_timeout_seconds,
            breaks=0.0 if ft.process_group == "gloo" else ft.exchange_timeout_seconds,
            checkpoint=max(1, round(checkpoint / window)) if checkpoint else 0,
        )

    def with_faults(self, faults: Faults, workers: int, gbit_per_second: float) -> Forecast:
        """Returns an estimate of the run with faults, followed for long enough to see many of them."""
        pace = self.pace(workers, gbit_per_second)
        an_hour = workers * faults.per_hour
        seconds = SECONDS_PER_HOUR * FAULTS / an_hour if an_hour else 0.0
        kills = poisson(workers, faults.per_hour, away=faults.restart, seed=workers)
        return forecast(pace, kills, syncs=max(LEAST_SYNCS, round(seconds / pace.alone)))


def fault_tables(runs: Sequence[PlannedRun], faults: Faults, rates: Sequence[float], *, width: int) -> list[Table]:
    """Tables of what runs give with faults; of one run, also by the number of workers.

    Args:
        runs: at least one.
        faults: of their workers.
        rates: Gbit/s of a worker's link.
        width: of the terminal.
    """
    if len(runs) > 1:
        return _of_several(runs, faults, rates, width)
    (run,) = runs
    found = {rate: run.with_faults(faults, run.config.workers, rate) for rate in rates}
    by_rate = fitted(
        f"{run.plan.name} with faults, by bandwidth",
        Column("Gbit/s", [f"{rate:g}" for rate in rates]),
        [
            Column("useful steps %", [_percent(each.efficiency) for each in found.values()]),
            Column("taking part %", [_percent(each.share) for each in found.values()]),
            Column("s a fault", [f"{each.lost:.1f}" for each in found.values()]),
            Column("longest s", [f"{each.longest:.0f}" for each in found.values()]),
            Column("speed %", [_percent(each.throughput) for each in found.values()]),
        ],
        width=width,
    )
    return [_facts(run, faults), *by_rate, *_by_workers(run, faults, rates, width)]


def plot_faults(run: PlannedRun, faults: Faults, rates: Sequence[float], path: Path) -> None:
    """Speed with faults against the number of workers, one curve for each bandwidth.

    Args:
        run: with outer steps.
        faults: of its workers.
        rates: Gbit/s of a worker's link.
        path: of the picture; its ending says which kind. Its folder is made.
    """
    series = [
        Series(
            label=f"{rate:g} Gbit/s",
            x=WORKERS,
            y=[100 * run.with_faults(faults, workers, rate).throughput for workers in WORKERS],
        )
        for rate in rates
    ]
    title = f"{faults.per_hour:g} faults an hour of each worker"
    panel = Panel(title=title, xlabel="workers", ylabel="% of the speed without faults", series=series, xlog=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_to(Figure(name=path.stem, title=run.plan.name, panels=[panel], panel_size=(7.2, 4.2)), path)


def _facts(run: PlannedRun, faults: Faults) -> Table:
    ft, workers = run.config.fault_tolerance, run.config.workers
    rows = {
        "faults": f"{faults.per_hour:g} an hour of each worker{_every(faults.per_hour)}",
        f"of all {workers} workers": f"{workers * faults.per_hour:g} an hour{_every(workers * faults.per_hour)}",
        "a lost worker": f"is back after {faults.restart:g} s, missed after {ft.heartbeat_timeout_seconds:g} s",
    }
    table = Table(title=Text(f"{run.plan.name}: faults"), title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def _by_workers(run: PlannedRun, faults: Faults, rates: Sequence[float], width: int) -> list[Table]:
    if not run.config.syncs:
        return []
    columns = [Column("a fault every", [_duration(faults.per_hour * workers) for workers in WORKERS])]
    for rate in rates:
        found = [run.with_faults(faults, workers, rate) for workers in WORKERS]
        columns.append(Column(f"useful % at {rate:g}", [_percent(each.efficiency) for each in found]))
        columns.append(Column(f"speed % at {rate:g}", [_percent(each.throughput) for each in found]))
    title = "with faults, by the number of workers and Gbit/s of a worker's link"
    return fitted(title, Column("K", [str(workers) for workers in WORKERS]), columns, width=width)


def _of_several(runs: Sequence[PlannedRun], faults: Faults, rates: Sequence[float], width: int) -> list[Table]:
    columns = []
    for rate in rates:
        found = [run.with_faults(faults, run.config.workers, rate) for run in runs]
        columns.append(
            Column(f"{rate:g} Gbit/s", [f"{_percent(f.throughput)} ({_percent(f.efficiency)})" for f in found])
        )
    title = f"% of the speed, and % of the steps useful, with {faults.per_hour:g} faults an hour of each worker"
    return fitted(title, Column("run", [run.plan.name for run in runs]), columns, width=width)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _every(per_hour: float) -> str:
    return f": one every {_duration(per_hour)}" if per_hour else ""


def _duration(per_hour: float) -> str:
    """The mean time between faults."""
    if not per_hour:
        return "-"
    seconds = SECONDS_PER_HOUR / per_hour
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
