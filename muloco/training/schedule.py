"""The schedules of the learning rates over a run, by inner step. Needs nothing but Python."""

import math

from muloco.settings.config import ResolvedConfig


def inner_share(step: int, *, warmup_steps: int, total_steps: int, least: float) -> float:
    """The inner learning rate in a step, from 0, as a share of its peak: linear warm-up over at most `total_steps`,
    then a cosine down to `least`, which is reached at step `total_steps` and where it stays."""
    warmup = min(warmup_steps, total_steps)
    if step < warmup:
        return float((step + 1) / warmup)
    if step == warmup or warmup == total_steps:
        return 1.0
    progress = min(1.0, float(step - warmup) / (total_steps - warmup))
    return least + (1 - least) * (0.5 * (1.0 + math.cos(math.pi * progress)))


def inner_learning_rate(config: ResolvedConfig, step: int) -> float:
    """The inner learning rate in an inner step, from 1."""
    schedule = config.lr_scheduler
    return config.optimizer.lr * inner_share(
        step - 1, warmup_steps=schedule.warmup_steps, total_steps=config.schedule_steps, least=schedule.min_lr_factor
    )
