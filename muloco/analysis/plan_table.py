"""Plans as tables, and as curves against bandwidth."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from muloco.analysis.chart import Figure, Series, wall_clock_panel
from muloco.analysis.draw import draw_to
from muloco.analysis.plan import Plan, fastest
from muloco.analysis.terminal import Column, fitted
from muloco.analysis.wall_clock import time_unit

_LISTED = 20
"""The most curves in the legend of a picture."""


def plan_tables(plans: Sequence[Plan], rates: Sequence[float], *, hardware: str, width: int) -> list[Table]:
    """Tables of what the runs need, and of their time by bandwidth.

    Args:
        plans: at least one.
        rates: Gbit/s of a worker's link.
        hardware: what the GPUs are and how far they are used.
        width: of the terminal.
    """
    return (_of_one if len(plans) == 1 else _of_several)(plans, rates, hardware, width)


def total(plans: Sequence[Plan], rates: Sequence[float]) -> str:
    """The sum of the GPU-hours of all runs; in GPU-minutes or GPU-seconds if it is small."""
    seconds = [sum(plan.gpu_seconds(rate) for plan in plans) for rate in rates]
    name, size = time_unit(max(seconds))
    parts = ", ".join(f"{_digits(all_of / size)} at {rate:g}" for all_of, rate in zip(seconds, rates, strict=True))
    return f"GPU-{name} of all {len(plans)} runs by Gbit/s: {parts}"


def _of_one(plans: Sequence[Plan], rates: Sequence[float], hardware: str, width: int) -> list[Table]:
    (plan,) = plans
    times = [plan.at(rate) for rate in rates]
    name, size = time_unit(max(time.total for time in times))
    gpu_name, gpu_size = time_unit(max(plan.gpu_seconds(rate) for rate in rates))
    rows = {
        "GPUs": f"{plan.gpus:,} {hardware}",
        "inner steps": f"{plan.steps:,}, of {plan.tokens:,} tokens together",
        "compute of an inner step": f"{plan.step_seconds:.3g} s",
        "sent by a worker": _sent(plan),
        "memory of a GPU": _memory_over_time(plan),
        **({"host memory a GPU": f"{_gigabytes(plan.host_bytes_per_gpu)} GB"} if plan.host_bytes_per_gpu else {}),
        "validation": f"{100 * plan.validation_share:.1f} % of the computation, not in the times below",
    }
    by_rate = fitted(
        f"{plan.name} by bandwidth",
        Column("Gbit/s of a worker's link", [f"{rate:g}" for rate in rates]),
        [
            Column(name, [_digits(time.total / size) for time in times]),
            Column("% of it compute", [f"{100 * time.utilization:.0f}" for time in times]),
            Column(f"GPU-{gpu_name}", [_digits(plan.gpu_seconds(rate) / gpu_size) for rate in rates]),
        ],
        width=width,
    )
    facts = Table(title=Text(plan.name), title_justify="left", show_header=False)
    for fact, value in rows.items():
        facts.add_row(fact, Text(value))
    return [facts, *by_rate]


def _of_several(plans: Sequence[Plan], rates: Sequence[float], hardware: str, width: int) -> list[Table]:
    """The fastest run at each bandwidth is bold."""
    names = Column("run", [plan.name for plan in plans])
    takes = [
        Column("GPUs", [f"{plan.gpus:,}" for plan in plans]),
        Column("steps", [f"{plan.steps:,}" for plan in plans]),
        Column("s a step", [f"{plan.step_seconds:.3g}" for plan in plans]),
        Column("sent by a worker", [_sent(plan) for plan in plans]),
        Column("GB a GPU", [_gigabytes(plan.bytes_per_gpu) + " (too much)" * (not plan.fits) for plan in plans]),
        Column("% validation", [f"{100 * plan.validation_share:.1f}" for plan in plans]),
    ]
    name, size = time_unit(max(plan.at(rate).total for plan in plans for rate in rates))
    times = [Column(f"{rate:g} Gbit/s", _times(plans, rate, size)) for rate in rates]
    return [
        *fitted(f"what the runs take, on {hardware}", names, takes, width=width),
        *fitted(f"{name} (and % of them that is compute) by bandwidth of a worker's link", names, times, width=width),
    ]


def _times(plans: Sequence[Plan], rate: float, size: float) -> list[Text]:
    best = fastest(plans, rate)
    cells = []
    for plan in plans:
        time = plan.at(rate)
        text = f"{_digits(time.total / size)} ({100 * time.utilization:.0f})"
        cells.append(Text(text, style="bold" if plan is best else ""))
    return cells


def _sent(plan: Plan) -> str:
    if plan.exchange_bytes == 0:
        return "nothing"
    every = "step" if plan.sync_steps == 1 else f"{plan.sync_steps} steps"
    return f"{plan.exchange_bytes / 1e9:.3g} GB every {every}"


def _memory_over_time(plan: Plan) -> str:
    between, peak = _gigabytes(plan.state_per_gpu), _gigabytes(plan.bytes_per_gpu)
    said = f"{peak} GB at all times" if between == peak else f"{between} GB between syncs, {peak} GB at most"
    return said if plan.fits else f"{said}: too much"


def _gigabytes(amount: float) -> str:
    return f"{amount / 1e9:.1f}" if amount >= 1e8 else f"{amount / 1e9:.2g}"


def _digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def plot_plans(plans: Sequence[Plan], path: Path) -> None:
    """Hours against bandwidth, one curve a run; labels tell the GPUs of a run where the runs have different numbers.

    Args:
        plans: at least one.
        path: of the picture; its ending says which kind. Its folder is made.
    """
    import numpy as np

    rates = [float(rate) for rate in np.geomspace(0.5, 12800, 100)]
    curves: dict[tuple[float, ...], list[Plan]] = {}
    for plan in plans:
        curves.setdefault(tuple(plan.at(rate).total for rate in rates), []).append(plan)
    name, size = time_unit(max(curve[-1] for curve in curves))
    several_sizes = len({plan.gpus for plan in plans}) > 1
    series = []
    for number, (times, (first, *alike)) in enumerate(curves.items()):
        gpus = f" ({first.gpus:,} GPUs)" if several_sizes else ""
        more = f" and {len(alike)} more alike" if alike else ""
        label = f"{first.name}{gpus}{more}" if number < _LISTED else ""
        series.append(Series(label=label, look=first.look, x=rates, y=[time / size for time in times], points=False))
    panel = wall_clock_panel("wall-clock time, modelled", series, name)
    note = f"the first {_LISTED} of {len(curves)} curves" if len(curves) > _LISTED else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_to(Figure(name=path.stem, title="Plan", panels=[panel], note=note, panel_size=(7.2, 4.2)), path)
