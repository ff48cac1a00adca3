"""One evaluation by lm-eval, of any model, or of a checkpoint. Importing this imports lm-eval."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import lm_eval
import lm_eval.api.task
import torch
import torch.distributed as dist

from muloco._torchtitan import device_type
from muloco.errors import UserError
from muloco.evals.adapter import MulocoLM
from muloco.evals.scoring import Scorer
from muloco.evals.tasks import Tasks
from muloco.model.architecture import NO_SCORES
from muloco.training.trained import Trained

FEWSHOT_SEED = 1234  # lm-eval's own
BOOTSTRAP = 100_000
"""Samples for standard errors, as many as lm-eval's own command takes."""

logging.getLogger("lm_eval").setLevel(logging.WARNING)


def evaluate_checkpoint(
    trained: Trained, tasks: Tasks, *, precision: torch.dtype, batch_tokens: int, limit: int | None, shots: int
) -> dict[str, Any]:
    """Returns lm-eval's results, on every rank. The ranks of torchrun share the work.

    Args:
        precision: of the weights.
        batch_tokens: tokens in a batch, with padding.
        limit, shots: as in `evaluate`.

    Raises:
        UserError: models of the flavor cannot be evaluated.
    """
    if not trained.flavor.one_mask:
        raise UserError(NO_SCORES.format(flavor=trained.flavor.alias))
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


def evaluate(
    model: MulocoLM, tasks: Tasks, *, limit: int | None = None, shots: int = 0, bootstrap: int = 0
) -> dict[str, Any]:
    """Returns lm-eval's results, on every rank of the model's: all have to call it. The tasks may be used again.

    Args:
        limit: documents of each task; None: all.
        shots: examples in each prompt, but for tasks that allow none.
        bootstrap: samples for standard errors that have no closed form; 0: they are left out.
    """
    for task in tasks.leaves.values():
        if task.get_config("num_fewshot") != 0:
            task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    with _without_bars():
        results = lm_eval.evaluate(
            lm=model,
            task_dict={"tasks": tasks.leaves, "groups": tasks.groups},
            limit=limit,
            log_samples=False,
            bootstrap_iters=bootstrap,
        )
    return {
        **results,
        "config": {
            "model": "muloco",
            **model.get_model_info(),
            "limit": limit,
            "num_fewshot": shots,
            "bootstrap_iters": bootstrap,
            "fewshot_seed": FEWSHOT_SEED,
        },
        "lm_eval_version": lm_eval.__version__,
        "date": time.time(),
    }


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """lm-eval shows how it builds requests, wherever its output goes; that takes no time."""
    module: Any = lm_eval.api.task
    shown = module.tqdm
    module.tqdm = partial(shown, disable=True)
    try:
        yield
    finally:
        module.tqdm = shown
