"""Checkpoints of a run: one folder a step, to which every worker adds its part.

checkpoint/step-N/global/       anchor and outer optimizer, equal on all workers; the lowest of them writes them
checkpoint/step-N/worker-NNN/   that worker's parameters, inner optimizer, learning rate, data and window position

The workers of a checkpoint are those that took part in the last committed round. One that was not among them, and so
finds no part of its own, goes on from the anchor.
"""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from muloco import sharding
from muloco._torchtitan import BaseCheckpointManager, ModelWrapper
from muloco.outer import OuterLoop
from muloco.training.averaging import Averaging
from muloco.training.checkpoint_folder import GLOBAL, CheckpointFolder, Manifest, Save, worker_part
from muloco.training.checkpoint_writer import CheckpointNotWritten, CheckpointWriter
from muloco.training.states import State
from muloco.training.transfer import Joining

logger = logging.getLogger(__name__)

_OWN_STATES = ("model", "dataloader", "residuals")
"""What a worker cannot take from another one's part."""


class Owner(Joining, Protocol):
    """Whose checkpoints these are."""

    def enter(self, state: State) -> None:
        """Reports that the worker saves or loads from here on."""
        ...

    def checkpoint_failed(self, step: int, reason: str) -> None:
        """The checkpoint of an inner step was not written."""
        ...


class RunCheckpoint(BaseCheckpointManager):
    """Saves and restores one worker's part, and the global part."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseCheckpointManager.Config):
        worker: int
        attempt: int
        asynchronous: bool

    def __init__(
        self,
        config: Config,
        *,
        dataloader: Any,
        model_parts: list[torch.nn.Module],
        optimizers: Any,
        lr_schedulers: Any,
        states: dict[str, Any],
        sd_adapter: Any,
        base_folder: str,
    ):
        self.save_future = None
        self.leaving = False
        """Whether the next save is the last one of this process, whatever the interval."""
        self._config = config
        self._model_parts = model_parts
        self._owner: Owner = states["train_state"]
        self._states = {
            "model": ModelWrapper(model_parts),
            "optimizer": optimizers,
            "lr_scheduler": lr_schedulers,
            "dataloader": dataloader,
            **states,
        }
        self._outer: OuterLoop | None = None
        self.averaging: Averaging | None = None
        """The trainer sets it; not None: the global part has the average too, which is the model to use."""
        self._folder = CheckpointFolder(Path(base_folder) / config.folder)
        self._writer = CheckpointWriter(self._folder, asynchronous=config.asynchronous, keep=config.keep_latest_k)
        self._begun = 0
        """Step of the newest save."""
        self.enable = config.enable

    def add_outer_loop(self, outer: OuterLoop) -> None:
        """The trainer has built its outer loop: its state belongs into the checkpoint from now on."""
        self._outer = outer
        self._states[f"outer_rank_{dist.get_rank()}"] = outer  # of text, torch keeps only one rank's by the same name

        if outer.residuals():
            self._states["residuals"] = _Residuals(outer, self._parameters())

    def newest_step(self) -> int | None:
        """Step of the newest whole checkpoint."""
        if not self.enable:
            return None
        newest, _ = self._folder.newest()
        return None if newest is None else newest.step

    def _save(self, curr_step: int, last_step: bool = False) -> bool:
        waits = last_step or self.leaving
        if curr_step % self._config.interval and not waits:
            return False
        self._owner.enter(State.SAVING)
        self._finish()
        worker = self._config.worker
        workers, history = ([worker], "") if self._outer is None else self._outer.last_round()
        if worker not in workers:
            logger.info("no part in checkpoint step-%d, having joined after the last sync", curr_step)
            return False
        save = Save(
            step=curr_step,
            attempt=self._config.attempt,
            history=history,
            parts=[GLOBAL, *map(worker_part, workers)],
        )
        parts = {worker_part(worker): {name: state.state_dict() for name, state in self._states.items()}}
        if worker == workers[0]:
            parts[GLOBAL] = self._global_state()
        self._begun = curr_step
        self._writer.begin(save, parts)
        if waits:
            self._finish(essential=True)
        return True

    def _load(self, step: int = -1) -> bool:
        newest, aside = self._folder.newest()
        for reason in aside:
            logger.warning("left aside: checkpoint %s", reason)
        if dist.get_rank() == 0:
            self._folder.discard_unfinished(worker_part(self._config.worker))
        if newest is None:
            if self._config.attempt > 1:
                logger.warning("there is no checkpoint to go on from: starting at step 0")
            return False
        self._owner.enter(State.LOADING)
        own = worker_part(self._config.worker)
        if self._outer is not None:
            path = self._folder.part(newest.step, GLOBAL)
            written = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
            self._outer.prepare_to_load(newest.step, in_flight=any(name.startswith("mean.") for name in written))
        dcp.load(self._global_state(), checkpoint_id=self._folder.part(newest.step, GLOBAL))
        if own in newest.parts:
            self._load_part(newest, own, self._states)
        else:
            self._begin_from_anchor(newest)
        logger.info("resumed from checkpoint step-%d", newest.step)
        return True

    def _begin_from_anchor(self, checkpoint: Manifest) -> None:
        """Goes on without a part of its own: with the anchor, another worker's state, and its own place in the data."""
        assert self._outer is not None  # without, there is one worker
        other = min(part for part in checkpoint.parts if part != GLOBAL)
        logger.warning(
            "checkpoint step-%d has no part of worker %d, which was away then: it begins with the anchor, and with the "
            "inner optimizer's state of %s",
            *(checkpoint.step, self._config.worker, other),
        )
        left_out = [name for name in _OWN_STATES if name != "model" or self.averaging is None]
        states = {name: state for name, state in self._states.items() if name not in left_out}
        self._load_part(checkpoint, other, states)
        self._outer.begin_windows()
        self._owner.joined(share=self._outer.membership.shares.get(self._config.worker))

    def _load_part(self, checkpoint: Manifest, part: str, states: Mapping[str, Any]) -> None:
        with warnings.catch_warnings():  # torchtitan's scheduler asks torch for the rate between steps, and may
            warnings.filterwarnings("ignore", message="To get the last learning rate")
            dcp.load(dict(states), checkpoint_id=self._folder.part(checkpoint.step, part))

    def _maybe_wait_for_staging(self) -> None:
        """torchtitan asks before every step of the optimizer. Staging is over; a save may be."""
        if self._writer.done:
            self._finish()

    def _wait_for_saving(self) -> None:
        self._finish()

    def _close(self) -> None:
        self._finish()
        self._writer.close()

    def _finish(self, *, essential: bool = False) -> None:
        """Waits for the save that is on its way. What the disk does not take is told, but the training goes on: its
        state is alive. An `essential` save, behind which there is none, has to succeed."""
        try:
            self._writer.finish()
        except CheckpointNotWritten as error:
            self._owner.checkpoint_failed(self._begun, str(error))
            if essential:
                raise
            logger.error("%s; the training goes on, and older checkpoints stay", error)

    def _global_state(self) -> dict[str, Any]:
        """What all workers share, as tensors that know their sharding; loading fills them in place."""
        parameters = self._parameters()
        state: dict[str, Any] = {}
        if self._outer is not None:
            state = {
                group: {name: sharding.wrap(tensor, like=parameters[name]) for name, tensor in tensors.items()}
                for group, tensors in self._outer.global_tensors().items()
            }
        elif self.averaging is None:
            state["anchor"] = {name: parameter.detach() for name, parameter in parameters.items()}
        if self.averaging is not None:
            state["average"] = self.averaging.x()
        return state

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for part in self._model_parts for name, p in part.named_parameters()}


class _Residuals:
    """What compression has left on a worker, as tensors that know their sharding."""

    def __init__(self, outer: OuterLoop, parameters: Mapping[str, torch.nn.Parameter]):
        self._outer = outer
        self._parameters = parameters

    def state_dict(self) -> dict[str, Any]:
        return {
            kind: {name: sharding.wrap(tensor, like=self._parameters[name]) for name, tensor in tensors.items()}
            for kind, tensors in self._outer.residuals().items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._outer.load_residuals(
            {
                kind: {name: sharding.local(tensor) for name, tensor in tensors.items()}
                for kind, tensors in state.items()
            }
        )
