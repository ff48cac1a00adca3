"""The learning rates by inner step, beside torchtitan's schedule."""

from typing import Any, Literal

import pytest
import torch

from muloco._torchtitan import LRSchedulersContainer
from muloco.resolve import resolution, resolve
from muloco.settings.config import Config
from muloco.settings.load import load_config
from muloco.settings.optimizer import LRScheduler
from muloco.training.optimizers import InnerRates
from muloco.training.outer import outer_learning_rate
from muloco.training.schedule import inner_learning_rate

PEAK = 0.02


def factors(schedule: LRSchedulersContainer.Config, *, training_steps: int) -> list[float]:
    """By `last_epoch`, from 0 to the end."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    (built,) = schedule.build(optimizers=[optimizer], training_steps=training_steps)
    return [built.lr_lambdas[0](step) for step in range(training_steps + 1)]


@pytest.mark.parametrize("total", [1, 2, 7, 40])
@pytest.mark.parametrize("warmup", [0, 1, 3, 40, 60])
@pytest.mark.parametrize("least", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("decay", ["cosine", "linear", "sqrt"])
@pytest.mark.parametrize("ratio", [None, 0.2, 1.0])
def test_the_schedule_is_torchtitans_to_the_last_bit(
    total: int, warmup: int, least: float, decay: Literal["cosine", "linear", "sqrt"], ratio: float | None
) -> None:
    shared: dict[str, Any] = {"warmup_steps": warmup, "min_lr_factor": least, "decay_ratio": ratio}
    theirs = LRSchedulersContainer.Config(decay_type=decay, **shared)
    ours = InnerRates(decay_type=decay, **shared)
    assert factors(ours, training_steps=total) == factors(theirs, training_steps=total)


def test_a_decay_at_the_end_leaves_the_peak_before_it() -> None:
    rates = factors(InnerRates(warmup_steps=2, decay_type="linear", decay_ratio=0.5, min_lr_factor=0), training_steps=8)
    assert rates == [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]
    config = Config()
    config.optimizer.lr, config.training.steps = 1.0, 8
    config.lr_scheduler = LRScheduler(warmup_steps=2, decay_type="linear", decay_ratio=0.5, min_lr_factor=0)
    assert [inner_learning_rate(resolve(config), step) for step in range(1, 9)] == rates[:8]


def test_after_its_end_the_rate_stays() -> None:
    short = factors(InnerRates(warmup_steps=2, min_lr_factor=0.25), training_steps=10)
    held = factors(InnerRates(warmup_steps=2, total_steps=10, min_lr_factor=0.25), training_steps=30)
    assert held == short + [0.25] * 20


def test_a_warm_up_longer_than_the_schedule_ends_with_it_and_is_told() -> None:
    rates = factors(InnerRates(warmup_steps=8, total_steps=4, min_lr_factor=0.1), training_steps=12)
    assert rates == [0.25, 0.5, 0.75] + [1.0] * 10
    words = ["--training.steps", "12", "--lr_scheduler.warmup_steps", "8"]
    assert resolution(load_config("config/laptop/muloco.py", words)).notes == []
    (note,) = resolution(load_config("config/laptop/muloco.py", [*words, "--lr_scheduler.total_steps", "4"])).notes
    assert "lr_scheduler.total_steps 4" in note


@pytest.mark.parametrize(("total", "at_the_end"), [(None, 30), (10, 10), (60, 60)])
def test_inner_and_outer_rate_have_one_length(total: int | None, at_the_end: int) -> None:
    config = Config()
    config.optimizer.lr, config.training.steps = PEAK, 30
    config.lr_scheduler.warmup_steps, config.lr_scheduler.total_steps = 4, total
    config.outer_optimizer.lr, config.outer_optimizer.schedule = 0.8, "linear"
    expected = factors(InnerRates(warmup_steps=4, total_steps=total, min_lr_factor=0.1), training_steps=30)
    config = resolve(config)
    assert [inner_learning_rate(config, step) for step in range(1, 31)] == [PEAK * one for one in expected[:30]]
    outer = outer_learning_rate(config)
    assert outer(20) == pytest.approx(0.8 * (0.1 + 0.9 * max(0.0, 1 - 20 / at_the_end)))
