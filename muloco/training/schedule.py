"""The schedules of the learning rates over a run, by inner step. Needs nothing but Python."""

import math
from collections.abc import Callable, Mapping

from muloco.settings.config import ResolvedConfig

DECAYS: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "sqrt": lambda progress: 1 - math.sqrt(progress),
}
"""Functions that map the share of a decay that is over to the share of the way from the peak to the last value that is
left."""


def inner_share(
    step: int,
    *,
    warmup_steps: int,
    total_steps: int,
    least: float,
    decay_type: str = "cosine",
    decay_ratio: float | None = None,
) -> float:
    """Returns the inner learning rate in a step, from 0, as a share of its peak: linear warm-up over at most
    `total_steps`, then the peak, then a decay to `least`, which is reached at step `total_steps` and where it stays.

    Args:
        decay_type: shape of the decay, one of `DECAYS`.
        decay_ratio: share of the steps that the decay takes, at most all after the warm-up; None: all of these.
    """
    warmup = min(warmup_steps, total_steps)
    if step < warmup:
        return float((step + 1) / warmup)
    longest = total_steps - warmup
    decay = longest if decay_ratio is None else min(round(total_steps * decay_ratio), longest)
    begin = total_steps - decay
    if step <= begin or decay == 0:
        return 1.0
    progress = min(1.0, float(step - begin) / decay)
    return least + (1 - least) * DECAYS[decay_type](progress)


def inner_learning_rate(config: ResolvedConfig, step: int) -> float:
    """The inner learning rate in an inner step, from 1."""
    schedule = config.lr_scheduler
    return config.optimizer.lr * inner_share(
        step - 1,
        warmup_steps=schedule.warmup_steps,
        total_steps=config.schedule_steps,
        least=schedule.min_lr_factor,
        decay_type=schedule.decay_type,
        decay_ratio=schedule.decay_ratio,
    )
