"""Wall clock against bandwidth: modelled from what runs have measured, beside what they took."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from muloco.analysis import published
from muloco.analysis.chart import Figure, Series, wall_clock_panel
from muloco.analysis.records.method import PAPER_SYNC_STEPS, Variant
from muloco.analysis.records.pooling import Group, Key, Measured
from muloco.analysis.report.tables import published_cells, published_variant
from muloco.analysis.report.value_table import Table
from muloco.analysis.wall_clock import time_unit, wall_clock
from muloco.model.architecture import Flavor
from muloco.model.flavors import flavor

BANDWIDTHS = (0.1, 1, 10, 100, 1000, 6400)
"""Columns, in Gbit/s."""
HERE = "measured"
_PAPER_SCALE = "15B"
_MODEL = (
    "Compute is the median of the run's own inner steps. Workers exchange what they have sent in the run; "
    "data-parallel runs and K = 1 exchange 16 bits a parameter in every step, as in the paper's model."
)


Hours = Callable[[float], float]
"""Hours of a run by Gbit/s of each worker's link."""


def measured_times(group: Group) -> Iterator[tuple[Key, Hours, float]]:
    """Scale and variant, hours by the model, and the hours that the run took, of the best points."""
    for (scale, variant), best in group.best.items():
        run = best.point.first
        if run.step_seconds is None:
            continue
        exchange: dict[str, Any] = {"exchange_bytes": _dense_bytes(run.size)}
        if (variant.workers or 1) > 1:
            interval = min(variant.sync_steps, run.steps)
            exchange = {"exchange_bytes": run.bytes_sent * interval / run.steps, "sync_steps": interval}
            exchange |= {"fragments": variant.fragments, "delay": variant.delay}
        hours = _hours(steps=run.steps, compute_seconds=run.step_seconds, **exchange)
        yield (scale, variant), hours, run.wall_seconds / 3600


def published_times() -> Iterator[tuple[Variant, Hours]]:
    """The paper's runs at 15B, in the model that fits its figure."""
    for name, steps in published.WALL_CLOCK_STEPS.items():
        variant = published_variant(name)
        yield (
            variant,
            _hours(
                steps=steps,
                compute_seconds=published.WALL_CLOCK_COMPUTE_SECONDS,
                exchange_bytes=_dense_bytes(flavor(_PAPER_SCALE)),
                sync_steps=PAPER_SYNC_STEPS if (variant.workers or 1) > 1 else 1,
            ),
        )


def _dense_bytes(size: Flavor) -> float:
    """16 bits a parameter: the gradients where there is an exchange in every step, and the pseudogradients in the
    paper's model."""
    return 2.0 * size.parameters


def _hours(**run: Any) -> Hours:
    return lambda gbit_per_second: wall_clock(gbit_per_second=gbit_per_second, **run).total / 3600


def wall_clock_table(group: Group) -> Table:
    """Hours by bandwidth, and the hours that the run took; printed in minutes or seconds where all are short."""
    measured = {}
    for key, modelled, hours in measured_times(group):
        measured[key, HERE] = Measured(hours, note="start, validation and checkpoints included")
        measured |= {(key, str(width)): Measured(modelled(width), note="modelled") for width in BANDWIDTHS}
    name, size = time_unit(3600 * max((cell.value for cell in measured.values()), default=1.0))
    return Table(
        name="wall_clock",
        title=f"Wall clock in {name} by Gbit/s of each worker's link",
        across="Gbit/s",
        column_order=[HERE, *map(str, BANDWIDTHS)].index,
        measured=measured,
        published=published_cells(published.WALL_CLOCK, _PAPER_SCALE),
        form=".4g",
        unit=size / 3600,
        notes=[f"Under {HERE} is what the run took here, over the links that it had; the rest is modelled. {_MODEL}"],
    )


def wall_clock_figure(group: Group, *, published_too: bool) -> Figure:
    """Hours against bandwidth, a panel a scale."""
    widths = [float(width) for width in np.geomspace(BANDWIDTHS[0], BANDWIDTHS[-1], 40)]

    def line(variant: Variant, hours: Hours, *, published: bool) -> Series:
        y = [hours(width) for width in widths]
        return Series(label=variant.label, x=widths, y=y, published=published, points=False)

    by_scale: dict[str, list[Series]] = {}
    for (scale, variant), hours, _ in measured_times(group):
        by_scale.setdefault(scale, []).append(line(variant, hours, published=False))
    for variant, hours in published_times() if published_too else ():
        read = published.WALL_CLOCK[variant.name]
        points = Series(label="", x=list(read), y=list(read.values()), published=True, line=False)
        by_scale.setdefault(_PAPER_SCALE, []).extend([line(variant, hours, published=True), points])
    panels = []
    for scale, series in by_scale.items():
        name, size = time_unit(3600 * max(max(line.y) for line in series))
        in_unit = [replace(line, y=[hours * 3600 / size for hours in line.y]) for line in series]
        panels.append(wall_clock_panel(scale, in_unit, name))
    return Figure(
        name="wall_clock",
        title="Wall clock against bandwidth",
        panels=panels,
        caption=_MODEL,
        needs="finished runs with tokens a second in their metrics",
    )
