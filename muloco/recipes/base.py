"""Settings that the experiments share: the paper's common settings (PAPER 2.3) and one recipe for each method.

Each recipe returns a whole config; an experiment module calls one and changes what differs.
"""

import dataclasses
from typing import Any, Literal

from muloco.settings.compression import Compression
from muloco.settings.config import Config
from muloco.settings.fault_tolerance import FaultTolerance
from muloco.settings.outer import OuterOptimizer

LOCAL_BATCH = {"150M": 32, "416M": 16, "914M": 16, "1.76B": 8, "3.1B": 4, "15B": 2}
"""Sequences in a forward pass of a GPU (PAPER 2.3). The launchers of the paper's jobs double it, except for that of
compressed runs."""

# The paper's three fragments of 416M (PAPER 3.5): four layers each, embedding and head with their neighbours
FRAGMENTS_416M = (
    "tok_embeddings,layers.0,layers.1,layers.2,layers.3",
    "layers.4,layers.5,layers.6,layers.7",
    "layers.8,layers.9,layers.10,layers.11,norm,lm_head",
)


def paper(flavor: str) -> Config:
    """Settings of all the paper's runs: seq 2048, clip 1.0, warm-up 500, cosine to 0.1, evaluation every 15 steps."""
    config = Config()
    config.model.flavor = flavor
    config.training.local_batch_size = LOCAL_BATCH.get(flavor, 2)
    config.compile.enable = True
    config.data.predict_bos = True  # the paper's stream (PAPER 11)
    return config


def short_test(config: Config, *, steps: int, batch: int, local_batch: int) -> Config:
    """A few steps, to test a machine: little warm-up, a small held-out set, no checkpoints."""
    config.training.steps = steps
    config.training.global_batch_size = batch
    config.training.local_batch_size = local_batch
    config.lr_scheduler.warmup_steps = steps // 4
    config.validation.sequences = 32
    config.metrics.log_freq = 1
    config.checkpoint.enable = False
    return config


def laptop(flavor: str = "laptop") -> Config:
    """The paper's family of models at a size that two CPU cores train in minutes."""
    config = Config()
    config.model.flavor = flavor
    config.training.seq_len = 256
    config.training.global_batch_size = 16
    config.training.local_batch_size = 8
    config.training.precision = "float32"
    config.training.steps = 180
    config.lr_scheduler.warmup_steps = 20
    config.validation.freq = 30
    config.validation.sequences = 32
    config.metrics.log_freq = 1
    config.checkpoint.interval = 90
    return config


def workers(config: Config, count: int, *, sync_steps: int = 30) -> Config:
    """Sets K workers that sync every H inner steps (the paper's H is 30)."""
    config.fault_tolerance = FaultTolerance(group_size=count, sync_steps=sync_steps)
    return config


def muloco(config: Config, *, lr: float, outer_lr: float, outer_momentum: float) -> Config:
    """Muon inside: mu 0.9 without Nesterov, AdamW (0.9, 0.99) for the rest (PAPER 3.2)."""
    config.optimizer.name = "Muon"
    config.optimizer.lr = lr
    config.outer_optimizer = OuterOptimizer(lr=outer_lr, momentum=outer_momentum)
    return config


def diloco(config: Config, *, lr: float, outer_lr: float, outer_momentum: float) -> Config:
    """AdamW (0.9, 0.99) inside."""
    config.optimizer.name = "AdamW"
    config.optimizer.lr = lr
    config.outer_optimizer = OuterOptimizer(lr=outer_lr, momentum=outer_momentum)
    return config


def gpa(config: Config, *, lr: float) -> Config:
    """Generalized Primal Averaging: AdamW (0.95, 0.99) inside, averaged at every step in place of outer steps. Several
    workers average z every H steps (PAPER 3.6)."""
    config.optimizer.name = "GPA"
    config.optimizer.lr = lr
    config.optimizer.beta1 = 0.95
    return config


def streaming(config: Config, fragments: int | tuple[str, ...], *, delay: int = 0) -> Config:
    """The model in fragments that are synced one after the other, each every H steps (PAPER 3.5).

    Args:
        fragments: how many, balanced by size; or the modules of each, with commas in between.
        delay: tau, inner steps during which the exchange of a fragment runs.
    """
    name = "num_fragments" if isinstance(fragments, int) else "module_fqns_per_model_fragment"
    chosen: dict[str, Any] = {name: fragments, "fragment_sync_delay": delay}
    config.fault_tolerance = dataclasses.replace(config.fault_tolerance, **chosen)
    return config


def compressed(config: Config, kind: str, **options: Any) -> Config:
    """Compresses the pseudogradients with a kind of codec and the paper's error feedback: beta 0.9, alpha 1 (PAPER
    3.3). The options are other fields of the section `compression`."""
    config.compression = Compression(kind=kind, **{"error_feedback": True, **options})
    return config


def data_parallel(config: Config, *, optimizer: Literal["AdamW", "Muon"], lr: float) -> Config:
    """The baseline: one worker, no outer optimizer."""
    config.fault_tolerance = FaultTolerance(semi_sync_method="none")
    config.optimizer.name = optimizer
    config.optimizer.lr = lr
    return config
