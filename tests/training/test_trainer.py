"""The trainer's actions around a sync, with everything below the trainer replaced."""

from unittest.mock import MagicMock

import pytest
import torch

from muloco._torchtitan import Trainer
from muloco.training.trainer import MulocoTrainer


@pytest.mark.parametrize("graphs", [False, True])
def test_gradients_leave_their_memory_to_what_comes_behind_a_step(
    graphs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients are freed before a sync, unless a CUDA graph writes them in place."""
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([parameter])
    trainer = object.__new__(MulocoTrainer)
    trainer.__dict__.update(
        step=5,
        config=MagicMock(),
        outer=MagicMock(),
        validator=MagicMock(),
        metrics_processor=MagicMock(),
        optimizers=optimizer,
        model_parts=[],
        _stops=False,
        _ranks=None,
    )
    trainer.config.training.steps, trainer.config.training.disable_cuda_graphs = 9, not graphs
    trainer.outer.sends_after.return_value = False
    trainer.outer.membership.stops = False
    seen = []
    trainer.outer.after_inner_step.side_effect = lambda *_, **__: seen.append(parameter.grad) or []

    def step(*_) -> None:
        parameter.grad = torch.ones(3)

    monkeypatch.setattr(Trainer, "train_step", step)
    trainer.train_step(iter(()))
    assert (seen[0] is None) == (not graphs)
