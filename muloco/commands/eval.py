"""`muloco eval`: evaluate a checkpoint on tasks of lm-eval, by one process or several."""

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from muloco.commands.parser import Commands, add_checkpoint, add_command, add_precision, add_step
from muloco.console import open_console
from muloco.errors import UserError
from muloco.settings.annotations import Amount, Count
from muloco.settings.values import option_type

if TYPE_CHECKING:
    from muloco.training.trained import Trained

USAGE = "CHECKPOINT --tasks A,B [options]"
DESCRIPTION = """Evaluate a CHECKPOINT (a run folder, or checkpoint/step-N in one) on lm-eval's tasks, zero-shot:
lm-eval's results as JSON below evaluations/ in the run folder, a table, and the mean accuracy. Under torchrun the ranks
share the work."""


def add(commands: Commands) -> None:
    summary = "evaluate a checkpoint with lm-eval"
    parser = add_command(commands, "eval", run, summary=summary, usage=USAGE, description=DESCRIPTION)
    add_checkpoint(parser)
    meaning = "names, separated by commas: tasks and groups of lm-eval, tasks of your own, `paper`"
    parser.add_argument("--tasks", metavar="A,B", help=meaning)
    add_step(parser)
    parser.add_argument("--include-path", metavar="DIR", help="folder with tasks of your own, as YAML files")
    for name, type_, default, meaning in (
        ("--limit", Count, None, "documents of each task, for a trial (default: all)"),
        ("--shots", Amount, 0, "examples in each prompt (default: 0)"),
        ("--batch-tokens", Count, 8192, "tokens in a batch, with padding (default: 8192)"),
    ):
        parser.add_argument(name, type=option_type(type_), default=default, metavar="N", help=meaning)
    add_precision(parser)
    parser.add_argument(
        "--output", metavar="FILE", help="file for lm-eval's JSON (default: below evaluations/ in the run folder)"
    )


def run(args: argparse.Namespace) -> int:
    if not args.tasks:
        raise UserError("muloco eval needs --tasks, such as --tasks hellaswag,piqa or --tasks paper")
    from muloco.training.trained import find_trained

    trained = find_trained(args.checkpoint, step=args.step)
    output, names = _output(args.output, trained), args.tasks.split(",")
    from muloco.evals.names import check_names
    from muloco.settings.evaluation import need_lm_eval

    need_lm_eval()
    check_names(names, args.include_path)
    import torch  # after the checks above, as it is slow

    from muloco.evals.report import figures, mean, table, write_results
    from muloco.evals.run import evaluate_checkpoint
    from muloco.evals.tasks import load_tasks

    tasks = load_tasks(names, args.include_path)
    results = evaluate_checkpoint(
        trained,
        tasks,
        precision=getattr(torch, args.precision),
        batch_tokens=args.batch_tokens,
        limit=args.limit,
        shots=args.shots,
    )
    if os.environ.get("RANK", "0") == "0":
        average = mean(figures(results), tasks.asked)
        write_results(output, results, run=trained.run.root, step=trained.step, average=average)
        console = open_console(soft_wrap=True)
        console.print(table(results, tasks.asked, title=trained.name))
        console.print(f"results: {output}")
    return 0


def _output(chosen: str | None, trained: "Trained") -> Path:
    if chosen is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return trained.run.evaluations / f"step-{trained.step}" / f"results-{stamp}.json"
    if Path(chosen).exists():
        raise UserError(f"--output: {chosen} exists; it is not overwritten")
    return Path(chosen)
