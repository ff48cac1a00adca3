"""`muloco eval`: evaluate a checkpoint on tasks of lm-eval, by one process or several."""

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from muloco.commands.parser import Commands, add_checkpoint, add_command, add_step
from muloco.console import open_console
from muloco.errors import UserError
from muloco.settings.annotations import Amount, Count
from muloco.settings.values import check_option, whole_number

if TYPE_CHECKING:
    from muloco.training.trained import Trained

DESCRIPTION = """Evaluate a CHECKPOINT (a run folder, or checkpoint/step-N in one) on lm-eval's tasks, zero-shot:
lm-eval's results as JSON below evaluations/ in the run folder, a table, and the mean accuracy. Under torchrun the ranks
share the work."""


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "eval",
        run,
        summary="evaluate a checkpoint with lm-eval",
        description=DESCRIPTION,
        usage="muloco eval CHECKPOINT --tasks A,B [options]",
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--tasks",
        metavar="A,B",
        help="names, separated by commas: tasks and groups of lm-eval, tasks of your own, `paper`",
    )
    add_step(parser)
    parser.add_argument("--include-path", metavar="DIR", help="folder with tasks of your own, as YAML files")
    parser.add_argument(
        "--limit", type=whole_number, metavar="N", help="documents of each task, for a trial (default: all)"
    )
    parser.add_argument(
        "--shots", type=whole_number, default=0, metavar="N", help="examples in each prompt (default: 0)"
    )
    parser.add_argument(
        "--batch-tokens",
        type=whole_number,
        default=8192,
        metavar="N",
        help="tokens in a batch, with padding (default: 8192)",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="data type of the weights (default: float32)",
    )
    parser.add_argument(
        "--output", metavar="FILE", help="file for lm-eval's JSON (default: below evaluations/ in the run folder)"
    )


def run(args: argparse.Namespace) -> int:
    """Raises UserError if the checkpoint cannot be evaluated."""
    if not args.tasks:
        raise UserError("muloco eval needs --tasks, such as --tasks hellaswag,piqa or --tasks paper")
    check_option("--limit", Count | None, args.limit)
    check_option("--batch-tokens", Count, args.batch_tokens)
    check_option("--shots", Amount, args.shots)
    from muloco.training.trained import find_trained

    trained = find_trained(args.checkpoint, step=args.step)
    output, names = _output(args.output, trained), args.tasks.split(",")
    from muloco.evals.names import check_names
    from muloco.settings.evaluation import need_lm_eval

    need_lm_eval()
    check_names(names, args.include_path)
    import torch  # after the checks above, as it is slow

    from muloco.evals.on_checkpoint import evaluate_checkpoint
    from muloco.evals.report import figures, mean, table, write_results
    from muloco.evals.tasks import find_tasks, load_tasks

    tasks = load_tasks(*find_tasks(names, args.include_path))
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
        console.print(f"results: {output}", markup=False)
    return 0


def _output(chosen: str | None, trained: "Trained") -> Path:
    if chosen is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return trained.run.evaluations / f"step-{trained.step}" / f"results-{stamp}.json"
    if Path(chosen).exists():
        raise UserError(f"--output: {chosen} exists; it is not overwritten")
    return Path(chosen)
