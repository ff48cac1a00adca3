"""torchtitan's Trainer, told about the outer loop."""

import os
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Annotated

import torch
import tyro

from muloco import sharding
from muloco._torchtitan import Trainer
from muloco.outer import OuterLoop, Transport
from muloco.outer.in_process import InProcessGroup
from muloco.outer.optimizer import build_outer_optimizer
from muloco.training.config import Config as RunConfig

LIGHTHOUSE = "TORCHFT_LIGHTHOUSE"
"""Environment variable with the lighthouse's address, `http://host:port`."""


class MulocoTrainer(Trainer):
    """One worker: torchtitan's inner steps and, every H of them, an outer step with the other workers."""

    @dataclass(kw_only=True, slots=True)
    class Config(Trainer.Config):
        muloco: Annotated[RunConfig, tyro.conf.Suppress]
        """The resolved config that this one was made from."""

    outer: OuterLoop | None = None

    def __init__(self, config: Config):
        super().__init__(config)
        self.outer = self._build_outer_loop(config.muloco)
        self.validator.outer = self.outer
        if self.outer is not None and self.checkpointer.enable:
            self.checkpointer.add_outer_loop(self.outer)

    def train(self) -> None:
        if self.checkpointer.newest_step() is None:
            self.validator.validate(self.model_parts, 0)
        super().train()

    def train_step(self, data_iterator) -> None:
        super().train_step(data_iterator)
        if self.outer is None:
            return
        sync = self.outer.after_inner_step(self.step, last=self.step == self.config.training.steps)
        if sync is not None:
            self.metrics_processor.log_sync(self.step, sync)

    def close(self) -> None:
        super().close()
        if self.outer is not None:
            self.outer.close()

    def _build_outer_loop(self, config: RunConfig) -> OuterLoop | None:
        if config.fault_tolerance.semi_sync_method == "none":
            return None
        outer = config.outer_optimizer
        return OuterLoop(
            {n: sharding.local(p) for part in self.model_parts for n, p in part.named_parameters()},
            partial(
                build_outer_optimizer,
                class_name=outer.class_name,
                lr=outer.lr,
                momentum=outer.momentum,
                nesterov=outer.nesterov,
            ),
            _build_transport(config),
            worker=config.fault_tolerance.replica_id,
            sync_interval=config.fault_tolerance.sync_steps,
        )


def _build_transport(config: RunConfig) -> Transport:
    """A group of one for K = 1, else torchft at the lighthouse of the environment."""
    ft = config.fault_tolerance
    if ft.group_size == 1:
        return InProcessGroup(1).transport(0)
    from muloco.outer.torchft import TorchftTransport

    if LIGHTHOUSE not in os.environ:
        raise RuntimeError(
            f"{ft.group_size} workers meet at a lighthouse: set {LIGHTHOUSE}=http://host:port, or start them all with "
            "`muloco train`"
        )
    assert config.run.name is not None
    return TorchftTransport(
        run=config.run.name,
        worker=ft.replica_id,
        workers=ft.group_size,
        lighthouse=os.environ[LIGHTHOUSE],
        rank=int(os.environ["RANK"]),
        ranks=int(os.environ["WORLD_SIZE"]),
        store=(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])),
        process_group=_process_group(ft.process_group),
        quorum_timeout=timedelta(seconds=ft.quorum_timeout_seconds),
        exchange_timeout=timedelta(seconds=ft.exchange_timeout_seconds),
    )


def _process_group(chosen: str) -> str:
    if chosen == "auto":  # the launcher says gloo where workers share devices
        return "nccl" if torch.cuda.is_available() else "gloo"
    if chosen == "nccl" and not torch.cuda.is_available():
        raise RuntimeError("fault_tolerance.process_group nccl needs CUDA devices; this machine has none: use gloo")
    return chosen
