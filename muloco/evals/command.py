"""`muloco eval`: lm-eval on a checkpoint, by one process or several."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muloco.console import open_console
from muloco.errors import UserError
from muloco.evals.names import check_names
from muloco.evals.report import figures, mean, table, write_results
from muloco.settings.bounds import Amount, Count
from muloco.settings.evaluation import need_lm_eval
from muloco.settings.values import check_option
from muloco.training.trained import Trained, find_trained

if TYPE_CHECKING:
    from muloco.evals.tasks import Tasks

BOOTSTRAP = 100_000
"""Samples for standard errors, as many as lm-eval's own command takes."""


def run_eval(command: argparse.Namespace) -> int:
    """Returns 0; raises UserError for what cannot be evaluated."""
    if not command.tasks:
        raise UserError("muloco eval needs --tasks, such as --tasks hellaswag,piqa or --tasks paper")
    check_option("--limit", Count | None, command.limit)
    check_option("--batch-tokens", Count, command.batch_tokens)
    check_option("--shots", Amount, command.shots)
    trained = find_trained(command.config, step=command.step)
    output = _output(command.output, trained)
    need_lm_eval()
    check_names(command.tasks.split(","), command.include_path)
    from muloco.evals.tasks import find_tasks, load_tasks

    tasks = load_tasks(*find_tasks(command.tasks.split(","), command.include_path))
    results = _evaluate(command, trained, tasks)
    if os.environ.get("RANK", "0") == "0":
        average = mean(figures(results), tasks.asked)
        write_results(output, results, run=trained.run.root, step=trained.step, average=average)
        console = open_console(soft_wrap=True)
        console.print(table(results, tasks.asked, title=trained.name))
        console.print(f"results: {output}", markup=False)
    return 0


def _output(chosen: str | None, trained: Trained) -> Path:
    if chosen is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return trained.run.evaluations / f"step-{trained.step}" / f"results-{stamp}.json"
    if Path(chosen).exists():
        raise UserError(f"--output: {chosen} exists; it is not overwritten")
    return Path(chosen)


def _evaluate(command: argparse.Namespace, trained: Trained, tasks: "Tasks") -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    from muloco._torchtitan import device_type
    from muloco.evals.adapter import MulocoLM
    from muloco.evals.run import evaluate
    from muloco.evals.scoring import Scorer

    several, rank = int(os.environ.get("WORLD_SIZE", "1")) > 1, int(os.environ.get("RANK", "0"))
    device = torch.device(device_type())
    if device.type != "cpu":
        device = torch.device(device.type, int(os.environ.get("LOCAL_RANK", "0")))
        torch.accelerator.set_device_index(device.index)
    if several:
        dist.init_process_group("gloo")
    try:
        scorer = Scorer(
            model=trained.model(device, dtype=getattr(torch, command.precision)),
            device=device,
            batch_tokens=command.batch_tokens,
            longest=trained.config.training.seq_len,
            ranks=dist.group.WORLD if several else None,
        )
        adapter = MulocoLM(scorer, trained.tokenizer(), quiet=not sys.stderr.isatty())
        return evaluate(adapter, tasks, limit=command.limit, shots=command.shots, bootstrap=0 if rank else BOOTSTRAP)
    finally:
        if several:
            dist.destroy_process_group()
