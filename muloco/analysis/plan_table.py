"""Plans as a table, and as curves against bandwidth."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from muloco.analysis.canvas import subplots
from muloco.analysis.plan import Plan, fastest, hours


def plan_table(plans: Sequence[Plan], bandwidths: Sequence[float]) -> Table:
    """A row a run; hours by Gbit/s with the share of them that is compute. The fastest run of each column is bold."""
    table = Table(title="hours (and % of them that is compute) by Gbit/s of a worker's link", title_justify="left")
    table.add_column("run", overflow="fold")
    for name in ("GPUs", "steps", "s a step", "GB sent", "each", "GB a GPU", *(f"{rate:g}" for rate in bandwidths)):
        table.add_column(name, justify="right", no_wrap=True)
    best = {rate: fastest(plans, rate) for rate in bandwidths}
    for plan in plans:
        cells = []
        for rate in bandwidths:
            time = plan.at(rate)
            text = f"{hours(time.total)} ({100 * time.utilization:.0f})"
            cells.append(Text(text, style="bold" if len(plans) > 1 and plan is best[rate] else ""))
        each = "-" if plan.exchange_bytes == 0 else "step" if plan.sync_steps == 1 else f"{plan.sync_steps} steps"
        table.add_row(
            plan.name,
            f"{plan.gpus:,}",
            f"{plan.steps:,}",
            f"{plan.step_seconds:.3g}",
            f"{plan.exchange_bytes / 1e9:.3g}",
            each,
            f"{plan.bytes_per_gpu / 1e9:.1f}{'' if plan.fits else ' (too much)'}",
            *cells,
        )
    return table


def totals(plans: Sequence[Plan], bandwidths: Sequence[float]) -> str:
    """GPU-hours of all runs, one after the other or not."""
    parts = ", ".join(f"{sum(plan.gpu_hours(rate) for plan in plans):,.0f} at {rate:g}" for rate in bandwidths)
    which = "the run" if len(plans) == 1 else f"all {len(plans)} runs"
    return f"GPU-hours of {which} by Gbit/s: {parts}"


def plot_plans(plans: Sequence[Plan], path: Path) -> None:
    """Hours against bandwidth, one curve a run.

    Args:
        plans: at least one.
        path: of the picture; its ending says which kind. Its folder is made.
    """
    import numpy as np

    rates = np.geomspace(0.5, 12800, 200)
    figure, axes = subplots(figsize=(8, 5), dpi=120)
    for plan in plans:
        axes.plot(rates, [plan.at(float(rate)).total / 3600 for rate in rates], label=plan.name)
    axes.set(xscale="log", yscale="log", xlabel="Gbit/s of a worker's link", ylabel="hours")
    axes.grid(which="both", alpha=0.25)
    axes.legend(frameon=False, fontsize="small")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
