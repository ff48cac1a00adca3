"""Wall clock against bandwidth: modelled from what runs have measured, beside what they took."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from muloco.analysis import published
from muloco.analysis.chart import Figure, Panel, Series, Skipped, assemble
from muloco.analysis.records.method import PAPER_SYNC_STEPS, Variant
from muloco.analysis.records.pooling import Group
from muloco.analysis.report.tables import Key, best_by_variant, published_variant, table
from muloco.analysis.table import Measured, Table
from muloco.analysis.wall_clock import WallClock, time_unit, wall_clock
from muloco.model.flavors import flavor

BANDWIDTHS = (0.1, 1, 10, 100, 1000, 6400)
"""Columns, in Gbit/s."""
HERE = "measured"
_DENSE_BYTES = 2
"""A parameter's gradient, where there is an exchange in every step; and its pseudogradient in the paper's model."""
_PAPER_SCALE = "15B"
_MODEL = (
    "Compute is the median of the run's own inner steps. Workers exchange what they have sent in the run; "
    "data-parallel runs and K = 1 exchange 16 bits a parameter in every step, as in the paper's model."
)


Timed = Callable[..., WallClock]
"""`wall_clock` for a run, of which the bandwidth is left to be given."""


def measured_times(group: Group) -> Iterator[tuple[Key, Timed, float]]:
    """Scale and variant, what the model takes, and the hours that the run took, of the best points."""
    for (scale, variant), one in best_by_variant(group).items():
        run = one.point.first
        if run.step_seconds is None:
            continue
        dense = float(_DENSE_BYTES * run.size.parameters)
        if (variant.workers or 1) == 1:
            sent, interval, streams = dense, 1, {}
        else:
            interval = min(variant.sync_steps, run.steps)
            sent = run.bytes_sent * interval / run.steps
            streams = {"fragments": variant.fragments, "delay": variant.delay}
        timed = _timed(run.steps, run.step_seconds, sent, interval, **streams)
        yield (scale, variant), timed, run.wall_seconds / 3600


def published_times() -> Iterator[tuple[Variant, Timed]]:
    """The paper's runs at 15B, in the model that fits its figure."""
    exchange = float(_DENSE_BYTES * flavor(_PAPER_SCALE).parameters)
    for name, steps in published.WALL_CLOCK_STEPS.items():
        variant = published_variant(name)
        interval = PAPER_SYNC_STEPS if (variant.workers or 1) > 1 else 1
        yield variant, _timed(steps, published.WALL_CLOCK_COMPUTE_SECONDS, exchange, interval)


def _timed(steps: int, compute_seconds: float, exchange_bytes: float, sync_steps: int, **streams: int) -> Timed:
    return partial(
        wall_clock,
        steps=steps,
        compute_seconds=compute_seconds,
        exchange_bytes=exchange_bytes,
        sync_steps=sync_steps,
        **streams,
    )


def _hours(timed: Timed, gbit_per_second: float) -> float:
    return timed(gbit_per_second=gbit_per_second).total / 3600


def wall_clock_table(group: Group, *, everything: bool) -> Table:
    """Hours by bandwidth, and the hours that the run took; printed in minutes or seconds where all are short."""
    measured = {}
    for key, timed, hours in measured_times(group):
        measured[key, HERE] = Measured(hours, note="start, validation and checkpoints included")
        measured |= {(key, str(width)): Measured(_hours(timed, width), note="modelled") for width in BANDWIDTHS}
    order = [HERE, *map(str, BANDWIDTHS)]
    longest = max((one.value for one in measured.values()), default=1.0)
    name, size = time_unit(3600 * longest)
    found = table(
        "wall_clock",
        f"Wall clock in {name} by Gbit/s of each worker's link",
        measured=measured,
        published={
            ((_PAPER_SCALE, published_variant(name)), str(width)): hours
            for name, by_width in published.WALL_CLOCK.items()
            for width, hours in by_width.items()
        },
        everything=everything,
        across="Gbit/s",
        column_order=order.index,
        form=".4g",
        notes=[f"Under {HERE} is what the run took here, over the links that it had; the rest is modelled. {_MODEL}"],
    )
    return replace(found, unit=size / 3600)


def wall_clock_figure(group: Group, *, published_too: bool) -> Figure | Skipped:
    """Hours against bandwidth, a panel a scale."""
    widths = [float(width) for width in np.geomspace(BANDWIDTHS[0], BANDWIDTHS[-1], 40)]
    by_scale: dict[str, list[Series]] = {}
    for (scale, variant), timed, _ in measured_times(group):
        hours = [_hours(timed, width) for width in widths]
        by_scale.setdefault(scale, []).append(Series(label=variant.label, x=widths, y=hours, points=False))
    if published_too:
        series = by_scale.setdefault(_PAPER_SCALE, [])
        for variant, timed in published_times():
            hours = [_hours(timed, width) for width in widths]
            series.append(Series(label=variant.label, x=widths, y=hours, published=True, points=False))
            read = published.WALL_CLOCK[variant.name]
            series.append(Series(label="", x=list(read), y=list(read.values()), published=True, line=False))
    units = {scale: time_unit(3600 * max(max(one.y) for one in series)) for scale, series in by_scale.items()}
    return assemble(
        "wall_clock",
        "Wall clock against bandwidth",
        [
            Panel(
                title=scale,
                xlabel="bandwidth of a worker's link (Gbit/s)",
                ylabel=f"wall-clock time ({units[scale][0]})",
                series=[replace(one, y=[hours * 3600 / units[scale][1] for hours in one.y]) for one in series],
                xlog=10,
                ylog=10,
            )
            for scale, series in by_scale.items()
        ],
        caption=_MODEL,
        needs="finished runs with tokens a second in their metrics",
        paper=not group.points,
    )
