"""Evaluation of the anchor on tasks during training: when it takes place, and its interface. Needs nothing but Python.

The implementation (`muloco.evals`) is above this package; the caller that starts a worker passes it in.
"""

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from muloco.settings.config import ResolvedConfig

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed import ProcessGroup


class Evaluation(Protocol):
    """Evaluates a model on tasks that it was made for."""

    def __call__(self, model: "nn.Module", ranks: "ProcessGroup | None", step: int) -> dict[str, float]:
        """Evaluates the model: figures by TASK/METRIC, and `mean`, on all ranks.

        Args:
            model: on all ranks, in evaluation mode; FSDP2 may shard it.
            ranks: the ranks that share the work, all of which call this; None: this rank alone.
            step: the inner step after which the model is evaluated.
        """
        ...


MakeEvaluation = Callable[[ResolvedConfig, Path], Evaluation]
"""Makes one for a resolved config, before the first step, from the folder with the tokenizer."""


def evaluation_steps(config: ResolvedConfig) -> tuple[int, ...]:
    """The inner steps of a resolved config after which the anchor is evaluated, in order, each once."""
    steps = config.training.steps
    if not config.evaluation.tasks:
        return ()
    return tuple(sorted({at if isinstance(at, int) else max(1, round(at * steps)) for at in config.evaluation.at}))


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Whatever happens within the context, the random generators of Python, numpy and torch go on from here."""
    import numpy as np
    import torch

    python, arrays = random.getstate(), np.random.get_state()
    device = torch.accelerator.current_accelerator()
    devices, kind = range(torch.accelerator.device_count()), "cuda" if device is None else device.type
    try:
        with torch.random.fork_rng(devices, device_type=kind):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
