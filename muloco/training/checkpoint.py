"""Checkpoints of a run: one folder a step, to which every worker adds its part.

checkpoint/step-N/global/       anchor and outer optimizer, equal on all workers; the lowest of them writes them
checkpoint/step-N/worker-NNN/   that worker's model, inner optimizer, learning rate, data and window position

Model and anchor are parameters and buffers: the anchor has the buffers that workers average, and the model of a worker
all that are persistent.

The workers of a checkpoint are those that took part in the last committed round. A worker that was not among them has
no part of its own and goes on from the anchor. So does a worker whose part is damaged. A checkpoint cannot be used only
if `global` or all parts of workers are damaged. Each worker decides this by itself, and all come to the same result.
"""

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from muloco import sharding
from muloco._torchtitan import BaseCheckpointManager, ModelWrapper
from muloco.outer import OuterLoop, Snapshot
from muloco.outer.loop.snapshot import Tensors
from muloco.runs import safe_reader
from muloco.runs.checkpoint_folder import CheckpointFolder, Incomplete
from muloco.runs.manifest import GLOBAL, Manifest, Save, worker_part
from muloco.runs.states import State
from muloco.training.checkpoint_writer import CheckpointNotWritten, CheckpointWriter
from muloco.training.context import WorkerContext, as_on_first_rank, named_parameters

if TYPE_CHECKING:
    from muloco.training.trainer import MulocoTrainer

logger = logging.getLogger(__name__)

_OWN_STATES = ("model", "dataloader")
"""States that a worker cannot take from the part of another worker."""
_CODECS = "codecs_"
"""Name of the states of the codecs of a fragment, before the index of the fragment."""


class CheckpointRemoved(RuntimeError):
    """Another worker has removed the checkpoint while it was loaded. Another start of this worker loads a newer one."""


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
        self.ends = False
        """Whether the next save is the last one of this process, whatever the interval."""
        self._config = config
        self._model_parts = model_parts
        self._trainer: MulocoTrainer = states["train_state"]
        self._states = {
            "model": ModelWrapper(model_parts),
            "optimizer": optimizers,
            "lr_scheduler": lr_schedulers,
            "dataloader": dataloader,
            **states,
        }
        self.context = WorkerContext()
        """Context of the worker. With GPA the global part has the average too, which is the model to use."""
        self._folder = CheckpointFolder(Path(base_folder) / config.folder)
        self._writer = CheckpointWriter(self._folder, asynchronous=config.asynchronous, keep=config.keep_latest_k)
        self._part = worker_part(config.worker)
        """The part that this worker loads: its own, or that of another worker if its own cannot be used."""
        self._held = contextlib.ExitStack()
        """Holds the checkpoint while it is loaded."""
        self._damaged: list[Manifest] = []
        """Checkpoints whose files have the right sizes but the wrong digests."""
        self.failure: CheckpointNotWritten | None = None
        """The reason why the checkpoint of the last step was not written."""
        self._begun = 0
        """Step of the newest save."""
        self.enable = config.enable

    def newest_step(self) -> int | None:
        """Returns the step of the newest whole checkpoint, without those that this process has found to be damaged."""
        if not self.enable:
            return None
        newest, _ = self._folder.newest(self._read)
        return None if newest is None else newest.step

    def _save(self, curr_step: int, last_step: bool = False) -> bool:
        waits = last_step or self.ends
        if curr_step % self._config.interval and not waits:
            return False
        self._trainer.enter(State.SAVING)
        self._finish()
        worker, outer = self._config.worker, self.context.outer
        workers, commit_hash = ([worker], "") if outer is None else outer.last_round()
        if worker not in workers:
            logger.info("no part in checkpoint step-%d, having joined after the last sync", curr_step)
            return False
        save = Save(
            step=curr_step,
            attempt=self._config.attempt,
            history=commit_hash,
            parts=[GLOBAL, *map(worker_part, workers)],
        )
        own = {name: state.state_dict() for name, state in self._states.items()}
        tensors: Tensors = {}
        if outer is not None:
            snapshot = outer.snapshot(own=True)
            tensors = snapshot.tensors
            own |= self._outer_states(snapshot)
        parts = {worker_part(worker): own}
        if worker == workers[0]:
            parts[GLOBAL] = self._global_state(tensors)
        self._begun = curr_step
        self._writer.begin(save, parts)
        if waits:
            self._finish(essential=True)
        return True

    def _load(self, step: int = -1) -> bool:
        if self._steps():
            self._trainer.enter(State.LOADING)
        with contextlib.ExitStack() as self._held:
            newest, aside = self._folder.newest(self._read_whole, self._steps)
            for reason in aside:
                logger.warning("skipped checkpoint %s", reason)
            if dist.get_rank() == 0:
                self._folder.discard_unfinished(worker_part(self._config.worker))
            if newest is not None:
                try:
                    self._take(newest)
                except ValueError as error:
                    if self._folder.has_manifest(newest.step):
                        raise
                    raise CheckpointRemoved(f"checkpoint step-{newest.step} was removed while it was loaded") from error
            elif self._config.attempt > 1:
                logger.warning("there is no checkpoint to go on from: starting at step 0")
        return newest is not None

    def _steps(self) -> list[int]:
        """Steps of all checkpoints, the same on all ranks."""
        return as_on_first_rank(self._folder.steps(), self._writer.ranks)

    def _take(self, newest: Manifest) -> None:
        if not newest.has_digests:
            logger.warning(
                "checkpoint step-%d has no digests, as an earlier version wrote it: its files cannot be verified",
                newest.step,
            )
        if self.context.outer is not None:
            self._load_with_outer_loop(newest, self.context.outer)
        else:
            safe_reader.load(self._global_state({}), self._folder.part(newest.step, GLOBAL))
            load_part(self._states, self._folder.part(newest.step, self._part))
        logger.info("resumed from checkpoint step-%d", newest.step)

    def _read(self, step: int) -> Manifest:
        """Returns the checkpoint of a step. Raises ValueError if it is incomplete or known to be damaged."""
        manifest = self._folder.read(step)
        if manifest in self._damaged:
            raise ValueError("it is damaged")
        return manifest

    def _read_whole(self, step: int) -> Manifest:
        """Returns the checkpoint of a step after it has verified the global part and one worker's part, this worker's
        own if possible, which becomes `_part`. It is held from then on. Raises ValueError, on all ranks alike, if it
        cannot be used."""
        manifest: list[Manifest] = []
        self._on_all_ranks(lambda: manifest.append(self._folder.read(step)))
        self._on_all_ranks(lambda: self._held.enter_context(self._folder.held(step)))
        started = time.monotonic()
        try:
            self._verify(manifest[0], GLOBAL)
            own = worker_part(self._config.worker)
            others = sorted(name for name in manifest[0].parts if name not in (GLOBAL, own))
            self._part = self._first_whole(manifest[0], [own, *others] if own in manifest[0].parts else others)
        except ValueError:
            self._on_all_ranks(lambda: self._folder.require(step))  # what was removed is not damaged
            self._damaged += manifest
            raise
        if manifest[0].has_digests:
            logger.info("verified checkpoint step-%d in %.2f s", step, time.monotonic() - started)
        return manifest[0]

    def _first_whole(self, manifest: Manifest, names: list[str]) -> str:
        reasons = []
        for name in names if self.context.outer is not None else names[:1]:
            try:
                self._verify(manifest, name)
            except ValueError as error:
                logger.warning("%s; it is not used", error)
                reasons.append(str(error))
            else:
                return name
        raise ValueError("; ".join(reasons) or "it has no worker's part")

    def _verify(self, manifest: Manifest, name: str) -> None:
        """Verifies the files of a part, divided among the ranks. Raises ValueError on all ranks if any is damaged."""
        ranks, rank = dist.get_world_size(self._writer.ranks), dist.get_rank(self._writer.ranks)
        self._on_all_ranks(lambda: self._folder.verify(manifest, name, rank=rank, ranks=ranks))
        if rank == 0:
            self._on_all_ranks(lambda: safe_reader.check(self._folder.part(manifest.step, name)))
        else:
            self._on_all_ranks(lambda: None)

    def _on_all_ranks(self, check: Callable[[], None]) -> None:
        """Runs a check on each rank; if it raises ValueError on any rank, raises it on all of them, and `Incomplete` if
        any rank has raised that."""
        reason = None
        try:
            check()
        except ValueError as error:
            reason = isinstance(error, Incomplete), str(error)
        reasons: list[tuple[bool, str] | None] = [None] * dist.get_world_size(self._writer.ranks)
        dist.all_gather_object(reasons, reason, group=self._writer.ranks)
        if given := [reason for reason in reasons if reason is not None]:
            is_incomplete, message = max(given, key=lambda reason: reason[0])
            raise (Incomplete if is_incomplete else ValueError)(message)

    def _load_with_outer_loop(self, checkpoint: Manifest, outer: OuterLoop) -> None:
        """Loads this worker's part. Without a part of its own, the worker goes on with the anchor, another worker's
        state, and its own position in the data."""
        own = self._part == worker_part(self._config.worker)
        states = self._states
        if not own:
            self._warn_of_foreign_part(checkpoint)
            left_out = [name for name in _OWN_STATES if name != "model" or self.context.averaging is None]
            states = {name: state for name, state in states.items() if name not in left_out}
        loaded = self._outer_states(outer.snapshot(own=own))
        load_part(states | loaded, self._folder.part(checkpoint.step, self._part))
        outer.restore(
            _Saved(
                position=loaded[self._position]["position"],
                codecs={
                    int(name.removeprefix(_CODECS)): state
                    for name, state in loaded[self._position].items()
                    if name != "position"
                },
                residuals=_local(loaded.get("residuals", {})),
                fill=lambda tensors: safe_reader.load(
                    self._global_state(tensors), self._folder.part(checkpoint.step, GLOBAL)
                ),
            ),
            own=own,
        )
        if not own:
            self._trainer.joined(outer.membership.data_positions.get(self._config.worker))

    def _warn_of_foreign_part(self, checkpoint: Manifest) -> None:
        absent = worker_part(self._config.worker) not in checkpoint.parts
        logger.warning(
            "checkpoint step-%d has no %s of worker %d%s: it begins with the anchor, and with the inner optimizer's "
            "state of %s",
            checkpoint.step,
            "part" if absent else "whole part",
            self._config.worker,
            ", which was away then" if absent else "",
            self._part,
        )

    def _maybe_wait_for_staging(self) -> None:
        """Finishes a save that is done. torchtitan calls this before every step of the optimizer."""
        if self._writer.done:
            self._finish()

    def _wait_for_saving(self) -> None:
        self._finish()

    def _close(self) -> None:
        self._finish()
        self._writer.close()

    def _finish(self, *, essential: bool = False) -> None:
        """Waits for the save that is on its way. If the disk does not take it, this is reported, but the training goes
        on, since its state is alive. An `essential` save, which is the last one, has to succeed: the trainer asks for
        that once the step has been validated."""
        try:
            self._writer.finish()
        except CheckpointNotWritten as error:
            self._trainer.metrics_processor.log_event(self._begun, "checkpoint_failed", reason=str(error))
            if essential:
                self.failure = error
            goes_on = "" if essential else "the training goes on, and "
            logger.error("%s; %solder checkpoints stay", error, goes_on)

    @property
    def _position(self) -> str:
        """Name of the outer loop's position in a worker's part. It is text, of which torch keeps that of one rank only
        if several have the same name."""
        return f"outer_rank_{dist.get_rank()}"

    def _outer_states(self, snapshot: Snapshot) -> dict[str, dict[str, Any]]:
        """Returns the states of the outer loop in a worker's part; loading fills them in place."""
        codecs = {f"{_CODECS}{index}": state for index, state in snapshot.codecs.items()}
        states: dict[str, dict[str, Any]] = {self._position: {"position": snapshot.position, **codecs}}
        if snapshot.residuals:
            states["residuals"] = self._sharded(snapshot.residuals)
        return states

    def _global_state(self, tensors: Tensors) -> dict[str, Any]:
        """Returns the state that all workers share, as tensors that know their sharding; loading fills them in place.
        Without an outer loop there are no `tensors`."""
        state: dict[str, Any] = self._sharded(tensors)
        if self.context.outer is None and self.context.averaging is None:
            state["anchor"] = {name: tensor.detach() for name, tensor in self._synced().items()}
        if self.context.averaging is not None:  # copies, which loading fills: what a worker goes on with is in its part
            buffers = {name: buffer.clone() for name, buffer in self.context.buffers.items()}
            state["average"] = self.context.averaging.x() | buffers
        return state

    def _sharded(self, tensors: Tensors) -> dict[str, Any]:
        """Returns this rank's parts of tensors, by kind and by the name of the parameter or buffer, as tensors that
        know their sharding."""
        synced = self._synced()
        return {
            kind: {name: sharding.wrap(tensor, like=synced[name]) for name, tensor in values.items()}
            for kind, values in tensors.items()
        }

    def _synced(self) -> dict[str, torch.Tensor]:
        """Returns everything that the anchor has, as it is in the model, by name."""
        return {**named_parameters(self._model_parts), **self.context.buffers}


def load_part(states: Mapping[str, Any], part: Path) -> None:
    """Fills the states of a worker from its part of a checkpoint, as `safe_reader.load` does."""
    with warnings.catch_warnings():  # torchtitan's scheduler asks torch for the rate between steps, and may
        warnings.filterwarnings("ignore", message="To get the last learning rate")
        safe_reader.load(dict(states), part)


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """The state of an outer loop in a checkpoint, see `muloco.outer.Saved`."""

    position: str
    codecs: dict[int, bytes]
    residuals: Tensors
    fill: Callable[[Tensors], None]


def _local(tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> Tensors:
    """Returns this rank's parts of tensors that know their sharding."""
    return {kind: {name: sharding.local(tensor) for name, tensor in values.items()} for kind, values in tensors.items()}
