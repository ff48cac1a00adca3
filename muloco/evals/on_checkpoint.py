"""Evaluates a checkpoint on tasks of lm-eval, by one process or by the ranks of torchrun. Needs lm-eval."""

import os
import sys
from typing import Any

import torch
import torch.distributed as dist

from muloco._torchtitan import device_type
from muloco.evals.adapter import MulocoLM
from muloco.evals.run import evaluate
from muloco.evals.scoring import Scorer
from muloco.evals.tasks import Tasks
from muloco.training.trained import Trained

BOOTSTRAP = 100_000
"""Samples for standard errors, as many as lm-eval's own command takes."""


def evaluate_checkpoint(
    trained: Trained, tasks: Tasks, *, precision: torch.dtype, batch_tokens: int, limit: int | None, shots: int
) -> dict[str, Any]:
    """Returns lm-eval's results, on every rank. The ranks of torchrun share the work.

    Args:
        precision: of the weights.
        batch_tokens: tokens in a batch, with padding.
        limit, shots: as in `evaluate`.
    """
    several, rank = int(os.environ.get("WORLD_SIZE", "1")) > 1, int(os.environ.get("RANK", "0"))
    device = torch.device(device_type())
    if device.type != "cpu":
        device = torch.device(device.type, int(os.environ.get("LOCAL_RANK", "0")))
        torch.accelerator.set_device_index(device.index)
    if several:
        dist.init_process_group("gloo")
    try:
        scorer = Scorer(
            model=trained.model(device, dtype=precision),
            device=device,
            batch_tokens=batch_tokens,
            longest=trained.config.training.seq_len,
            ranks=dist.group.WORLD if several else None,
        )
        adapter = MulocoLM(scorer, trained.tokenizer(), quiet=not sys.stderr.isatty())
        return evaluate(adapter, tasks, limit=limit, shots=shots, bootstrap=0 if rank else BOOTSTRAP)
    finally:
        if several:
            dist.destroy_process_group()
