"""Generalized Primal Averaging at 416M: two workers of four GPUs each."""

from muloco.recipes import base
from muloco.settings.config import Config


def config() -> Config:
    config = base.workers(base.paper("416M"), 2, sync_steps=32)
    config.parallelism.data_parallel_replicate_degree = 4  # the paper replicates 150M and 416M (PAPER 2.1)
    # lr, betas, weight decay, warm-up and steps of the published config (PAPER 3.6)
    config.optimizer.weight_decay = 1e-4
    config.lr_scheduler.warmup_steps, config.training.steps = 300, 7953
    return base.gpa(config, lr=0.015)
