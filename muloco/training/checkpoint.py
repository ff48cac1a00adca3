"""Checkpoints of a run: one folder a step, to which every worker adds its part.

checkpoint/step-N/global/       anchor and outer optimizer, equal on all workers; worker 0 writes them
checkpoint/step-N/worker-NNN/   that worker's parameters, inner optimizer, learning rate, data and window position
checkpoint/step-N/manifest.json written last, by whoever completes the set: without it the checkpoint does not count
"""

import logging
import re
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from muloco import sharding
from muloco._torchtitan import BaseCheckpointManager, ModelWrapper
from muloco.outer import OuterLoop
from muloco.training.run_folder import write_json

logger = logging.getLogger(__name__)

_METADATA = ".metadata"  # torch writes it last into a part


class RunCheckpoint(BaseCheckpointManager):
    """Saves and restores one worker's part, and the global part."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseCheckpointManager.Config):
        worker: int
        workers: int

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
        self.enable = config.enable
        self.save_future = None
        self._config = config
        self._folder = Path(base_folder) / config.folder
        self._model_parts = model_parts
        self._states = {
            "model": ModelWrapper(model_parts),
            "optimizer": optimizers,
            "lr_scheduler": lr_schedulers,
            "dataloader": dataloader,
            **states,
        }
        self._outer: OuterLoop | None = None

    def add_outer_loop(self, outer: OuterLoop) -> None:
        """The trainer has built its outer loop: its state belongs into the checkpoint from now on."""
        self._outer = outer
        self._states["outer"] = outer

    def newest_step(self) -> int | None:
        """Step of the newest whole checkpoint."""
        return max(self._whole_steps(), default=None) if self.enable else None

    def _save(self, curr_step: int, last_step: bool = False) -> bool:
        if curr_step % self._config.interval and not last_step:
            return False
        started = time.monotonic()
        dcp.save(self._states, checkpoint_id=self._part(curr_step, f"worker-{self._config.worker:03d}"))
        if self._config.worker == 0:
            dcp.save(self._global_state(), checkpoint_id=self._part(curr_step, "global"))
        if dist.get_rank() == 0:
            self._complete(curr_step)
            self._purge()
        logger.info("saved checkpoint step-%d in %.2f s", curr_step, time.monotonic() - started)
        return True

    def _load(self, step: int = -1) -> bool:
        found = self.newest_step()
        if found is None:
            return False
        if self._outer is not None:
            written = dcp.FileSystemReader(self._part(found, "global")).read_metadata().state_dict_metadata
            self._outer.prepare_to_load(found, in_flight=any(name.startswith("mean.") for name in written))
        dcp.load(self._global_state(), checkpoint_id=self._part(found, "global"))
        with warnings.catch_warnings():  # torchtitan's scheduler asks torch for the rate between steps, and may
            warnings.filterwarnings("ignore", message="To get the last learning rate")
            dcp.load(self._states, checkpoint_id=self._part(found, f"worker-{self._config.worker:03d}"))
        logger.info("resumed from checkpoint step-%d", found)
        return True

    def _maybe_wait_for_staging(self) -> None:
        pass  # saves are synchronous

    def _wait_for_saving(self) -> None:
        pass

    def _close(self) -> None:
        pass

    def _global_state(self) -> dict[str, Any]:
        """What all workers share, as tensors that know their sharding; loading fills them in place."""
        parameters = {name: p for part in self._model_parts for name, p in part.named_parameters()}
        if self._outer is None:
            return {"anchor": {name: parameter.detach() for name, parameter in parameters.items()}}
        return {
            group: {name: sharding.wrap(tensor, like=parameters[name]) for name, tensor in tensors.items()}
            for group, tensors in self._outer.global_tensors().items()
        }

    def _part(self, step: int, part: str) -> Path:
        return self._folder / f"step-{step}" / part

    def _manifest(self, step: int) -> Path:
        return self._folder / f"step-{step}" / "manifest.json"

    def _whole_steps(self) -> list[int]:
        steps = (re.fullmatch(r"step-(\d+)", path.name) for path in self._folder.glob("step-*"))
        return sorted(step for step in (int(m[1]) for m in steps if m) if self._manifest(step).exists())

    def _complete(self, step: int) -> None:
        parts = ["global", *(f"worker-{worker:03d}" for worker in range(self._config.workers))]
        if all((self._part(step, part) / _METADATA).exists() for part in parts):
            write_json(self._manifest(step), {"step": step, "parts": parts})

    def _purge(self) -> None:
        """Removes whole checkpoints older than those to keep."""
        if self._config.worker == 0 and self._config.keep_latest_k:
            for step in self._whole_steps()[: -self._config.keep_latest_k]:
                self._manifest(step).unlink()
                shutil.rmtree(self._folder / f"step-{step}")
