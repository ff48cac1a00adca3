"""`muloco plan`: estimate what runs will take."""

import argparse
from pathlib import Path

from muloco.commands.parser import Commands, add_command, not_empty
from muloco.console import open_console
from muloco.errors import UserError
from muloco.settings.annotations import Count, NotNegative, Positive, Seconds, SomeShare
from muloco.settings.values import option_type

USAGE = "FILE [options] [--section.field value ...]"
DESCRIPTION = """Estimate what the run of FILE, a config, or the runs of FILE, a sweep, will take: GPUs, bytes between
workers, memory, and hours by the bandwidth of the workers' links; with --faults, also what is left of their speed on
machines that fail. --section.field value options apply to all."""
UTILIZATION = """share of their peak FLOPs that the GPUs reach, at 6 N FLOPs a token, like mfu_6n in the metrics of a
run (default: 0.39)"""
FAULTS = """faults per hour of each worker, with all its nodes: a worker that is lost once in N hours has 1/N (its mean
time between failures is N hours). Adds what K workers give, for K of the config and from 2 to 1024"""
RESTART = """with --faults: seconds from a loss to where the worker meets the others again (default: 17, measured with a
tiny model on two CPU cores, results/storm/brief.json; a large model takes longer)"""
PLOT = """draw hours against bandwidth into a .png or .svg file; with --faults and a single run, speed against the
number of workers"""
WIDE = 120
"""Columns of a terminal that shows several runs at all bandwidths."""


def add(commands: Commands) -> None:
    summary = "estimate time, bytes and memory of runs"
    parser = add_command(commands, "plan", run, summary=summary, usage=USAGE, description=DESCRIPTION)
    parser.epilog = "`muloco train CONFIG --help` lists every field of a config."
    parser.takes_fields = True
    parser.add_argument("file", metavar="FILE", type=not_empty, help="a config or a sweep, as for `train` and `sweep`")
    parser.add_argument("--gpu", default="H100", metavar="NAME", help="A100, H100, H200 or B200 (default: H100)")
    meaning = "GPUs of all workers of a run (default: one per rank)"
    parser.add_argument("--gpus", type=option_type(Count), metavar="N", help=meaning)
    parser.add_argument("--utilization", type=option_type(SomeShare), metavar="SHARE", help=UTILIZATION)
    meaning = "Gbit/s of a worker's link; one value or several"
    parser.add_argument("--gbit", type=option_type(Positive), nargs="+", metavar="RATE", help=meaning)
    parser.add_argument("--faults", type=option_type(NotNegative), metavar="PER_HOUR", help=FAULTS)
    parser.add_argument("--restart", type=option_type(Seconds), metavar="SECONDS", help=RESTART)
    parser.add_argument("--plot", metavar="PICTURE", help=PLOT)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 if some of the runs of a sweep cannot be run."""
    from muloco.analysis.fault_plan import FAULTS_NOTE, RESTART_SECONDS, Faults, PlannedRun, fault_tables, plot_faults
    from muloco.analysis.output import check_picture, writing
    from muloco.analysis.plan import ASSUMPTIONS, BANDWIDTHS, FEW_BANDWIDTHS, PAPER_UTILIZATION, plan
    from muloco.analysis.plan_table import plan_tables, plot_plans, total
    from muloco.sweeps.runs import runs_of

    if args.restart is not None and args.faults is None:
        raise UserError("--restart is for --faults PER_HOUR, which is not given")
    runs, refused = runs_of(args.file, args.words)
    console = open_console()
    rates = args.gbit
    if rates is None:
        rates = FEW_BANDWIDTHS if len(runs) > 1 and console.width < WIDE else BANDWIDTHS
    utilization = PAPER_UTILIZATION if args.utilization is None else args.utilization
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
    afflicted = [PlannedRun(config=config, plan=one) for (_, config), one in zip(runs, plans, strict=True)]
    faults = None if args.faults is None else Faults(per_hour=args.faults, restart=args.restart or RESTART_SECONDS)
    if plans and faults:
        for table in fault_tables(afflicted, faults, args.gbit or FEW_BANDWIDTHS, width=console.width):
            console.print(table)
        console.print(FAULTS_NOTE, style="dim")
    if plans and picture:
        with writing("--plot", picture):
            if faults and len(plans) == 1 and afflicted[0].config.syncs:
                plot_faults(afflicted[0], faults, args.gbit or FEW_BANDWIDTHS, picture)
            else:
                plot_plans(plans, picture)
        console.print(f"curves: {picture}", soft_wrap=True)
    for line in refused:
        console.print(line, style="red", soft_wrap=True)
    return 1 if refused else 0
