"""`muloco plan`: estimate what runs will take."""

import argparse
from pathlib import Path

from muloco.commands.parser import Commands, add_command, not_empty
from muloco.console import open_console
from muloco.errors import UserError
from muloco.settings.values import whole_number

DESCRIPTION = """Estimate what the run of FILE, a config, or the runs of FILE, a sweep, will take: GPUs, bytes between
workers, memory, and hours by the bandwidth of the workers' links. --section.field value options hold for all."""
WIDE = 120
"""Columns of a terminal that shows several runs at all bandwidths."""


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "plan",
        run,
        summary="estimate time, bytes and memory of runs",
        description=DESCRIPTION,
        usage="muloco plan FILE [options] [--section.field value ...]",
        epilog="`muloco train CONFIG --help` lists every field of a config.",
        takes_fields=True,
    )
    parser.add_argument("file", metavar="FILE", type=not_empty, help="a config or a sweep, as for `train` and `sweep`")
    parser.add_argument("--gpu", default="H100", metavar="NAME", help="A100, H100, H200 or B200 (default: H100)")
    parser.add_argument(
        "--gpus", type=whole_number, metavar="N", help="GPUs of all workers of a run (default: one per rank)"
    )
    parser.add_argument(
        "--utilization",
        type=float,
        metavar="SHARE",
        help="share of their peak FLOPs that the GPUs reach, at 6 N FLOPs a token, like mfu_6n in the metrics of a run "
        "(default: 0.39)",
    )
    parser.add_argument(
        "--gbit", type=float, nargs="+", metavar="RATE", help="Gbit/s of a worker's link; one value or several"
    )
    parser.add_argument("--plot", metavar="PICTURE", help="draw hours against bandwidth into a .png or .svg file")


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 if some of the runs of a sweep cannot be run.

    Raises:
        UserError: the file or an option cannot be used.
    """
    from muloco.analysis.output import check_picture, writing
    from muloco.analysis.plan import ASSUMPTIONS, BANDWIDTHS, FEW_BANDWIDTHS, PAPER_UTILIZATION, plan
    from muloco.analysis.plan_table import plan_tables, plot_plans, total
    from muloco.sweeps.runs import runs_of

    runs, refused = runs_of(args.file, args.words)
    console = open_console()
    rates = args.gbit
    if rates is None:
        rates = FEW_BANDWIDTHS if len(runs) > 1 and console.width < WIDE else BANDWIDTHS
    utilization = PAPER_UTILIZATION if args.utilization is None else args.utilization
    if not all(rate > 0 for rate in rates):
        raise UserError(f"--gbit must be above 0; got {' '.join(f'{rate:g}' for rate in rates)}")
    picture = Path(args.plot) if args.plot else None
    if picture:
        check_picture("--plot", picture)
    plans = [plan(config, name=name, gpu=args.gpu, gpus=args.gpus, utilization=utilization) for name, config in runs]
    if plans:
        hardware = f"{args.gpu} at {100 * utilization:g} % of their peak"
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
    return 1 if refused else 0
