"""Takes inner steps from a checkpoint on, in one process: those that a run would have taken next, or part of them."""

import contextlib
import copy
import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from muloco import sharding
from muloco.data.loader import Batch, MixtureLoader
from muloco.errors import UserError
from muloco.model.buffers import averaged_buffers
from muloco.runs import safe_reader
from muloco.runs.checkpoint_folder import CheckpointFolder
from muloco.runs.folder import RunFolder
from muloco.runs.manifest import worker_part
from muloco.settings.config import Config, ResolvedConfig
from muloco.settings.fault_tolerance import Chaos
from muloco.settings.parallelism import Parallelism
from muloco.settings.run import Checkpoint
from muloco.training.checkpoint import load_part
from muloco.training.context import named_parameters
from muloco.training.data import prepare_data
from muloco.training.stop_request import StopRequest
from muloco.training.titan_config import trainer_config
from muloco.training.trained import Trained
from muloco.training.worker import store_of_single_rank

OPTIMIZERS = ("Muon", "AdamW")


@contextlib.contextmanager
def one_rank() -> Iterator[None]:
    """Context for continuations, in which this process is the only rank. Afterwards its environment is as before.

    Raises:
        UserError: it is not.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("this runs in one process: start it without torchrun")
    before = dict(os.environ)
    store = store_of_single_rank(Config())
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        del store
        os.environ.clear()
        os.environ.update(before)


class Continuation:
    """One model that takes inner steps again and again from the same checkpoint, without outer steps.

    It starts from the checkpoint's global weights (the anchor) and from the inner optimizer of its first worker, at the
    learning rates that the run had planned. The global batches are those that the run would have taken next: the next
    sequences of all its ranks. The run folder is only read.

    To be used within `one_rank`.

    Args:
        trained: the checkpoint.
        counts: the numbers of workers among which global batches will be divided.
        steps: most inner steps that will be taken.
        scratch: an empty folder, for what a trainer writes.

    Raises:
        UserError: the run's method, its batch or its number of steps do not allow it, or a part is missing.
    """

    def __init__(self, trained: Trained, *, counts: list[int], steps: int, scratch: Path):
        self._trained, run = trained, trained.config
        check(trained, counts=counts, steps=steps)
        _verify(trained)
        self._batch = run.training.global_batch_size
        self._local = math.gcd(run.training.local_batch_size, *(self._batch // count for count in counts))
        config = _alone(run, self._local)
        self._trainer = trainer_config(
            config, RunFolder(scratch), prepare_data(config), attempt=1, group=None, stop=StopRequest(), evaluation=None
        ).build()
        self._buffers = averaged_buffers(self._trainer.model_parts, trained.flavor.record)
        self._weights = trained.weights()

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Returns the parameters by name; restarting and stepping changes them in place."""
        return named_parameters(self._trainer.model_parts)

    @property
    def matrices(self) -> dict[str, torch.nn.Parameter]:
        """Returns the parameters whose role is `matrix`, which Muon steps."""
        matrices = self._trained.flavor.matrices
        return {name: parameter for name, parameter in self.parameters.items() if name in matrices}

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Returns the optimizer of all parameters."""
        (optimizer,) = self._trainer.optimizers.optimizers
        return optimizer

    def restart(self) -> None:
        """Goes back to the checkpoint."""
        with torch.no_grad():
            for name, tensor in {**self.parameters, **self._buffers}.items():
                sharding.local(tensor).copy_(self._weights[name])
        trainer = self._trainer
        states = {"optimizer": trainer.optimizers, "lr_scheduler": trainer.lr_schedulers, "train_state": trainer}
        self._load(_parts(self._trained)[0], states)

    def take(self, steps: int, *, worker: int, workers: int) -> None:
        """Inner steps on worker number `worker`'s part of each of the next global batches: all after a restart."""
        trainer = self._trainer
        trainer.gradient_accumulation_steps = self._batch // workers // self._local
        streams = [iter(loader) for loader in self._loaders()]
        own = deal(streams, batches=self._batch // self._local, worker=worker, workers=workers)
        batches = trainer.batch_generator(own)
        for _ in range(steps):
            trainer.step += 1
            trainer.train_step(batches)

    def close(self) -> None:
        self._trainer.close()

    def _loaders(self) -> Iterator[MixtureLoader]:
        """Returns the data loader of each rank of each worker of the run, at the position of the checkpoint."""
        config, trainer = self._trained.config, self._trainer
        ranks = config.data_parallel_ranks
        for worker, part in enumerate(_parts(self._trained)):
            for rank in range(ranks):
                shard = dataclasses.replace(trainer.config.dataloader, worker=worker, workers=config.workers)
                loader = shard.build(
                    dp_world_size=ranks,
                    dp_rank=rank,
                    tokenizer=trainer.tokenizer,
                    seq_len=config.training.seq_len,
                    local_batch_size=self._local,
                )
                self._load(part, {"dataloader": loader})
                yield loader

    def _load(self, part: Path, states: dict) -> None:
        try:
            load_part(states, part)
        except safe_reader.UnreadablePart as error:
            raise UserError(str(error)) from None


def check(trained: Trained, *, counts: list[int], steps: int) -> None:
    """Raises UserError where such a continuation is not possible; see `Continuation`."""
    config, name = trained.config, trained.name
    if config.optimizer.name not in OPTIMIZERS:
        raise UserError(
            f"{name} was trained with optimizer.name {config.optimizer.name}; its inner steps can be repeated with "
            f"{' and '.join(OPTIMIZERS)} only"
        )
    for count in counts:
        if count < 1 or config.training.global_batch_size % count:
            raise UserError(
                f"the global batch of {config.training.global_batch_size} sequences of {name} cannot be divided over "
                f"{count} workers"
            )
    if steps < 1:
        raise UserError(f"the number of inner steps must be at least 1; got {steps}")
    latest = config.training.steps - steps
    if latest < 1:
        raise UserError(f"the run of {name} has {config.training.steps} steps; {steps} inner steps are too many")
    if trained.step > latest:
        left = config.training.steps - trained.step
        where = f"{left} steps before the end" if left else "the end"
        raise UserError(
            f"{name} is {where} of the run; {steps} inner steps need a checkpoint at least {steps} steps before the "
            f"end (step {latest} at the latest)"
        )
    _parts(trained)


def deal(streams: Sequence[Iterator[Batch]], *, batches: int, worker: int, workers: int) -> Iterator[Batch]:
    """One worker's part of each global batch, as consecutive batches. The global batch consists of `batches`, equally
    many from each stream; their number is a multiple of the streams and of `workers`."""
    own = batches // workers
    while True:
        whole = [next(stream) for stream in streams for _ in range(batches // len(streams))]
        yield from whole[worker * own : (worker + 1) * own]


def _parts(trained: Trained) -> list[Path]:
    folder = CheckpointFolder(trained.run.checkpoint)
    manifest = folder.read(trained.step)
    names = [worker_part(worker) for worker in range(trained.config.workers)]
    for name in names:
        if name not in manifest.parts:
            raise UserError(f"{trained.name} has no part {name}, whose place in the data is needed")
    return [folder.part(trained.step, name) for name in names]


def _verify(trained: Trained) -> None:
    """Raises UserError unless the parts that are needed are whole and can be read as data."""
    folder = CheckpointFolder(trained.run.checkpoint)
    manifest = folder.read(trained.step)
    try:
        safe_reader.check(trained.part)
        for part in _parts(trained):
            folder.verify(manifest, part.name)
            safe_reader.check(part)
    except ValueError as error:
        raise UserError(str(error)) from None


def _alone(run: ResolvedConfig, local_batch_size: int) -> ResolvedConfig:
    """The run's config for one worker of one rank that neither syncs nor saves."""
    config = copy.deepcopy(run)
    config.training.local_batch_size = local_batch_size
    config.fault_tolerance.semi_sync_method = "none"
    config.fault_tolerance.group_size = 1
    config.fault_tolerance.replica_id = 0
    config.parallelism = Parallelism()
    config.checkpoint = Checkpoint(enable=False, asynchronous=False)
    config.chaos = Chaos()
    config.evaluation.tasks = ()
    config.metrics.log_freq = 1  # each step's loss and gradients are looked at
    config.metrics.tensorboard = config.metrics.wandb = False
    return config
