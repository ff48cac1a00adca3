"""The tasks of a config, for evaluations while it is trained. Importing this imports lm-eval."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import ProcessGroup

from muloco.data.cache import default_cache
from muloco.data.prepare import open_tokenizer
from muloco.data.tokenizer import DocumentTokenizer
from muloco.errors import UserError
from muloco.evals.adapter import MulocoLM
from muloco.evals.report import figures, mean, write_results
from muloco.evals.run import evaluate
from muloco.evals.scoring import Continuation, Score, Scorer
from muloco.evals.tasks import Tasks, load_tasks
from muloco.runs.folder import DURING_TRAINING
from muloco.settings.config import ResolvedConfig
from muloco.training.resuming import run_folder

logger = logging.getLogger(__name__)


def tasks_of(config: ResolvedConfig) -> Tasks:
    """The tasks of a resolved config, loaded with their data. Raises UserError as `load_tasks`, and for a task that
    generates text: its requests end at different lengths, and the ranks of a sharded model have to call it equally
    often."""
    chosen = config.evaluation
    tasks = load_tasks(chosen.tasks, chosen.include_path)
    for name, task in tasks.leaves.items():
        if task.OUTPUT_TYPE == "generate_until":
            raise UserError(
                f"evaluation.tasks: {name} generates text; in training only tasks are evaluated that ask for "
                "likelihoods (muloco eval takes all)"
            )
    return tasks


def rehearse(config: ResolvedConfig) -> None:
    """Evaluates each task once at the start of a run, with a trivial model that takes no time, so that a task that
    cannot be evaluated is found before the first step.

    Raises UserError as `tasks_of`, or if a task fails, such as one whose answers are longer than the model takes.
    """
    chosen, tasks = config.evaluation, tasks_of(config)
    tokenizer = open_tokenizer(config.data.tokenizer, config.data.vocabulary, default_cache())
    scorer = _NoModel(
        model=nn.Linear(1, 1),
        device=torch.device("cpu"),
        batch_tokens=chosen.batch_tokens,
        longest=config.training.seq_len,
    )
    adapter = MulocoLM(scorer, tokenizer, quiet=True)
    for name, task in tasks.leaves.items():
        try:
            evaluate(adapter, Tasks(asked=[name], leaves={name: task}, groups={}), limit=chosen.limit)
        except Exception as error:  # a task is a program of its own, which may fail on anything
            raise UserError(
                f"evaluation.tasks: {name} cannot be evaluated: {type(error).__name__}: {error} "
                f"(training.seq_len is {config.training.seq_len})"
            ) from error


class _NoModel(Scorer):
    """A model to which every continuation is certain."""

    def __call__(self, asked: Sequence[Continuation], progress: object = None) -> list[Score]:
        return [(0.0, True)] * len(asked)


class TaskEvaluation:
    """See `muloco.training.evaluation.Evaluation`. lm-eval's JSON goes into the run folder; all workers write the same.
    The tokenizer is given by its folder. Raises UserError as `tasks_of`."""

    def __init__(self, config: ResolvedConfig, tokenizer: Path):
        self._config = config
        self._tokenizer = DocumentTokenizer(tokenizer)
        self._tasks = tasks_of(config)

    def __call__(self, model: nn.Module, ranks: ProcessGroup | None, step: int) -> dict[str, float]:
        chosen = self._config.evaluation
        scorer = Scorer(
            model=model,
            device=next(model.buffers()).device,
            batch_tokens=chosen.batch_tokens,
            longest=self._config.training.seq_len,
            ranks=ranks,
        )
        adapter = MulocoLM(scorer, self._tokenizer, quiet=True)
        results = evaluate(adapter, self._tasks, limit=chosen.limit)
        values = figures(results)
        average, folder = mean(values, self._tasks.asked), run_folder(self._config)
        if ranks is None or dist.get_rank(ranks) == 0:
            try:
                file = folder.evaluations / f"step-{step}" / DURING_TRAINING
                write_results(file, results, run=folder.root, step=step, average=average)
            except OSError as error:  # the values are in the metrics, too
                logger.error("the results of the evaluation cannot be written: %s", error)
        return values if average is None else {**values, "mean": average}
