"""`muloco plan`."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from muloco.analysis.output import check_picture, writing
from muloco.analysis.plan import ASSUMPTIONS, BANDWIDTHS, FEW_BANDWIDTHS, PAPER_UTILIZATION, plan
from muloco.analysis.plan_table import plan_tables, plot_plans, total
from muloco.errors import UserError
from muloco.settings.config import ResolvedConfig

REFUSED = 1
WIDE = 120
"""Columns of a terminal that shows several runs at all bandwidths."""


def run_plan(
    runs: Sequence[tuple[str, ResolvedConfig]],
    *,
    refused: Sequence[str] = (),
    gpu: str,
    gpus: int | None = None,
    utilization: float | None = None,
    rates: Sequence[float] | None = None,
    picture: Path | None = None,
    console: Console,
) -> int:
    """Says what runs will take.

    Args:
        runs: names and resolved configs.
        refused: lines that say what cannot be run, and why.
        gpu, gpus: as `muloco.analysis.plan.plan` takes them.
        utilization: share of the GPUs' peak; None: the paper's.
        rates: Gbit/s of a worker's link; None: some from slow to fast, fewer of them for several
            runs in a narrow terminal.
        picture: file to draw hours against bandwidth into; None: no picture.
        console: where to write.

    Returns:
        exit status: 0; 1 where something was refused.

    Raises:
        UserError: options that are not possible.
    """
    if rates is None:
        rates = FEW_BANDWIDTHS if len(runs) > 1 and console.width < WIDE else BANDWIDTHS
    utilization = PAPER_UTILIZATION if utilization is None else utilization
    if not all(rate > 0 for rate in rates):
        raise UserError(f"--gbit must be above 0; got {' '.join(f'{rate:g}' for rate in rates)}")
    if picture:
        check_picture("--plot", picture)
    plans = [plan(config, name=name, gpu=gpu, gpus=gpus, utilization=utilization) for name, config in runs]
    if plans:
        hardware = f"{gpu} at {100 * utilization:g} % of their peak"
        for table in plan_tables(plans, rates, hardware=hardware, width=console.width):
            console.print(table)
        if len(plans) > 1:
            console.print(total(plans, rates))
        console.print(ASSUMPTIONS, style="dim")
    if plans and picture:
        with writing("--plot", picture):
            plot_plans(plans, picture)
        console.print(f"curves: {picture}", soft_wrap=True)
    for line in refused:
        console.print(line, style="red", markup=False, soft_wrap=True)
    return REFUSED if refused else 0
