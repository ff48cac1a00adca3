"""One evaluation by lm-eval. Importing this imports lm-eval."""

import contextlib
import logging
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import lm_eval
import lm_eval.api.task

from muloco.evals.adapter import MulocoLM
from muloco.evals.tasks import Tasks

FEWSHOT_SEED = 1234  # lm-eval's own

logging.getLogger("lm_eval").setLevel(logging.WARNING)


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
