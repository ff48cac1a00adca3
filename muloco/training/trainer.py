"""torchtitan's Trainer with the outer loop."""

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import tyro

from muloco._torchtitan import ModelWrapper, ParallelDims, Trainer
from muloco.errors import UserError
from muloco.failpoints import hit, on_hit
from muloco.model.buffers import averaged_buffers
from muloco.model.flavors import flavor
from muloco.model.initial import load_initial
from muloco.outer import OuterLoop, RunProgress, StateLost, Transport, TransportError
from muloco.outer.in_process import InProcessGroup
from muloco.outer.loop.fragment import Merging
from muloco.runs.checkpoint_folder import NoWholeCheckpoint
from muloco.runs.commits import CommitLog, LogFile, Progress
from muloco.runs.folder import RunFolder
from muloco.runs.lock import only_one
from muloco.runs.states import State
from muloco.settings.config import ResolvedConfig as RunConfig
from muloco.training.chaos import FaultInjector, FaultSchedule
from muloco.training.context import Averaging, WorkerContext, as_on_first_rank, named_parameters
from muloco.training.evaluation import Evaluation
from muloco.training.finite import GradientWatch
from muloco.training.outer import build_outer_loop, build_transport
from muloco.training.stop_request import StopRequest
from muloco.training.transfer import WorkerTransfer

COMMITS = "commits"
"""Name of the question by which a worker asks others for their newest commits."""
ASK_SECONDS = 2.0
"""Seconds that a worker waits for the answers of all others together."""

logger = logging.getLogger(__name__)

SAVING_SECONDS = 600.0
"""Seconds that a worker that has found no others waits for another such worker that is saving a checkpoint."""


class MulocoTrainer(Trainer):
    """One worker: torchtitan's inner steps and, every H of them, an outer step with the other workers."""

    @dataclass(kw_only=True, slots=True)
    class Config(Trainer.Config):
        muloco: Annotated[RunConfig, tyro.conf.Suppress]
        """The resolved config that this one was made from."""
        group: Annotated[InProcessGroup | None, tyro.conf.Suppress]
        """The workers of this process, where they are not processes of their own."""
        stop: Annotated[StopRequest, tyro.conf.Suppress]
        """Whether the run shall stop before its end."""
        evaluation: Annotated[Evaluation | None, tyro.conf.Suppress]
        """Evaluates the anchor on tasks, after the steps that the validator's config names."""

    outer: OuterLoop | None = None

    def __init__(self, config: Config):
        super().__init__(config)
        self._gradients = GradientWatch(named_parameters(self.model_parts))
        self._backward_passes = 0  # of this step
        self._stops = False
        """Whether this worker stops here, before the last step."""
        self._ranks = dist.new_group(backend="gloo") if dist.get_world_size() > 1 else None
        initial = config.muloco.checkpoint.initial
        if initial is not None and not self._has_checkpoint():
            load_initial(Path(initial), self.model_parts, flavor(config.muloco.model.flavor))
        self._buffers = averaged_buffers(self.model_parts, flavor(config.muloco.model.flavor).record)
        self._averaging: Averaging | None = None
        if config.muloco.optimizer.name == "GPA":
            (gpa,) = self.optimizers
            self._averaging = Averaging(gpa, named_parameters(self.model_parts))
        self._commits: CommitLog | None = None
        if dist.get_rank() == 0:
            path = RunFolder(config.dump_folder).commits(config.muloco.fault_tolerance.replica_id)
            self._commits = CommitLog(LogFile(path), attempt=config.metrics.attempt)
        if config.muloco.syncs:
            self.outer = self._build_outer_loop(config)
        self.validator.context = self.checkpointer.context = WorkerContext(
            outer=self.outer,
            buffers=self._buffers,
            averaging=self._averaging,
            evaluation=config.evaluation,
            ranks=self._ranks,
        )
        self._introduce()

    def _introduce(self) -> None:
        size = flavor(self.config.muloco.model.flavor)
        elements: Counter[str] = Counter()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                rule = group.get("algorithm", type(optimizer).__name__)
                elements[rule] += sum(parameter.numel() for parameter in group["params"])
        rules = ", ".join(f"{count:,} by {rule}" for rule, count in elements.items())
        logger.info("model %s (%s): %s parameters; %s", size.alias, size.name, f"{size.parameters:,}", rules)

    def init_distributed(self) -> ParallelDims:
        """torchtitan's initialization, once for each process."""
        if dist.is_initialized():  # another worker of this process did it
            return ParallelDims.from_config(self.config.parallelism, dist.get_world_size())
        return super().init_distributed()

    def train(self) -> None:
        if not self._has_checkpoint():
            in_process = self.config.group is not None  # workers in separate processes have not met yet
            self.validator.validate(self.model_parts, 0, alone=not in_process)
        try:
            super().train()
        except TransportError as error:
            self._save_alone(error)
            raise
        if self.checkpointer.failure is not None:
            raise self.checkpointer.failure
        if not self._stops:
            logger.info("finished all %d steps", self.step)

    def _save_alone(self, reason: TransportError) -> None:
        """Saves a checkpoint if this worker has found too few others for a sync, because it may hold the only state of
        the run. Other workers in this situation do the same; one checkpoint of a step is enough."""
        if self.outer is None or not self.checkpointer.enable:
            return
        folder = Path(self.config.dump_folder, self.config.checkpoint.folder)
        try:
            if not self.outer.sync_alone(self.step, last=self.step == self.config.training.steps):
                return
            logger.error("%s; this worker saves a checkpoint and ends", reason)
            with contextlib.ExitStack() as turn:
                if dist.get_rank() == 0:
                    turn.enter_context(only_one(folder / ".saving", "another worker saves", patience=SAVING_SECONDS))
                if self._on_any_rank(self._is_saved()):
                    logger.info("a checkpoint of step %d or later already exists", self.step)
                    return
                self.checkpointer.ends = True
                self.checkpointer.save(self.step)
        except (StateLost, UserError) as error:
            logger.error("no checkpoint was saved: %s", error)

    def _is_saved(self) -> bool:
        try:
            return (self.checkpointer.newest_step() or 0) >= self.step
        except NoWholeCheckpoint:
            return False

    def batch_generator(self, data_iterable):
        """Returns torchtitan's batches. Before, the workers meet, and make up for the validation and evaluation that
        the checkpoint's step still lacks.

        They do so here because torchtitan 0.3.0 has no hook between loading a checkpoint and the first step, and this
        is the only method of the trainer that it calls there, once a run."""
        loaded = self.step
        if loaded > 0:
            self.enter(State.RESUMED)
        if self.config.metrics.attempt > 1:
            self.metrics_processor.log_event(loaded, "resume")
        if self._commits is not None:
            self._commits.begin(loaded)
        if self.outer is not None:
            self.outer.membership.asks_to_stop = self._asked_to_stop()
            self.enter(State.MEETING)
            self.outer.start(self.step)
            self._stops = self.outer.membership.stops
            if self.step == self.config.training.steps:
                self.outer.close()  # it came for the last sync: nobody shall wait for it at another one
        if self.step == loaded > 0:
            # all ranks have to do the same, but may not see the same file yet
            done = as_on_first_rank(self.metrics_processor.done_at(loaded), self._ranks)
            self.validator.make_up_for(self.model_parts, loaded, done=done)
        if self.config.muloco.worker_processes == self.config.muloco.workers:  # otherwise it has waited for its turn
            self.metrics_processor.begin()
        return super().batch_generator(data_iterable)

    def train_step(self, data_iterator) -> None:
        self._backward_passes = 0
        self.enter(State.TRAINING)
        hit("inner_step")
        super().train_step(data_iterator)
        if self.config.training.disable_cuda_graphs:  # a graph writes the gradients in place
            self.optimizers.zero_grad(set_to_none=True)  # a sync, validation and other workers can use their memory
        self.metrics_processor.compiled = True
        if self.config.muloco.workers == 1:
            self._stops = self._asked_to_stop()
        if self.outer is not None:
            self.validator.validate_own(self.model_parts, self.step)
            if self.outer.sends_after(self.step):
                self.outer.membership.asks_to_stop |= self._asked_to_stop()
            last = self.step == self.config.training.steps
            if last or self.outer.applies_after(self.step):
                self.enter(State.SYNCING)
            for sync in self.outer.after_inner_step(self.step, last=last):
                self.metrics_processor.log_sync(self.step, sync)
            self._stops |= self.outer.membership.stops
            if self._stops or self.step == self.config.training.steps:
                self.outer.membership.finish()
        if self._stops:
            self._gradients.check(self.step)
            self.checkpointer.ends = True
            logger.info("stopping after step %d, as a signal asks for it", self.step)

    def forward_backward_step(self, **batch) -> torch.Tensor:
        """torchtitan's; behind the last one of a step the gradients are whole and not clipped yet."""
        loss = self.of_last_stage(super().forward_backward_step(**batch))
        self._backward_passes += 1
        if self._backward_passes == self.gradient_accumulation_steps:
            self._gradients.observe(self.step)
            if self._host_waits_or_state_leaves():
                self._gradients.check(self.step)
        return loss

    def of_last_stage(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the values that the last stage of a pipeline has, on all stages. Without a pipeline: `values`."""
        if not self.parallel_dims.pp_enabled:
            return values
        values = values.detach().reshape(()) if self.pp_has_last_stage else torch.zeros((), device=self.device)
        dist.all_reduce(values, group=self.parallel_dims.get_mesh("pp").get_group())
        return values

    def _host_waits_or_state_leaves(self) -> bool:
        """Whether this step logs, sends its result to other workers, saves a checkpoint, or is the last."""
        synced = self.outer is not None and self.outer.sends_after(self.step)
        saved = self.checkpointer.enable and self.step % self.config.checkpoint.interval == 0
        last = self.step == self.config.training.steps
        return self.metrics_processor.should_log(self.step) or synced or saved or last

    def should_continue_training(self) -> bool:
        """Whether another step follows. If not, this also reports it and leaves the group of this process, so that the
        other workers do not wait for this one: torchtitan 0.3.0 has no hook after the last step, and it sleeps for two
        seconds before `train` returns. It calls this method once a step, and never again after False."""
        goes_on = super().should_continue_training() and not self._stops
        if not goes_on:
            self.enter(State.STOPPED if self._stops else State.FINISHED)
            if self.config.group is not None:
                self.config.group.leave(self.config.muloco.fault_tolerance.replica_id)
        return goes_on

    def enter(self, state: State) -> None:
        """Reports that this worker changes its state."""
        self.metrics_processor.enter(state, self.step)

    def joined(self, data_position: str | None) -> None:
        """Goes on from another worker's state at a position in this worker's shard of the data; None: its start."""
        sequences = 0
        if data_position is not None:
            state = json.loads(data_position)
            self.dataloader.load_state_dict(state)
            sequences = next(iter(state.values()))["sequences"]
        self.ntokens_seen = sequences * self.config.training.seq_len
        logger.info("joined the others after step %d", self.step)
        self.metrics_processor.log_event(self.step, "join")

    def _asked_to_stop(self) -> bool:
        """Whether one of this worker's ranks is. All of them ask at the same steps."""
        return self._on_any_rank(self.config.stop.made)

    def _has_checkpoint(self) -> bool:
        """Whether there is a whole checkpoint: the same on all ranks, also while other workers write the first one."""
        return self._on_any_rank(self.checkpointer.newest_step() is not None)

    def _on_any_rank(self, value: bool) -> bool:
        """Whether `value` is true on any rank of this worker; all ranks have to call this."""
        if self._ranks is None:
            return value
        flag = torch.tensor(int(value))
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._ranks)
        return bool(flag)

    def _build_outer_loop(self, config: Config) -> OuterLoop:
        states: dict[str, Any] = {"optimizer": self.optimizers, "lr_scheduler": self.lr_schedulers}
        parameters: Mapping[str, torch.Tensor] = named_parameters(self.model_parts)
        merging: Merging = contextlib.nullcontext
        if self._averaging is not None:  # the parameters are y; what the workers have in common is z
            states["model"] = ModelWrapper(self.model_parts)
            parameters, merging = self._averaging.z(), self._averaging.moving_z
        transport = build_transport(config.muloco, config.group, self.device)
        folder = RunFolder(config.dump_folder)
        progress = Progress(
            [LogFile(folder.commits(worker)) for worker in range(config.muloco.workers)],
            attempt=config.metrics.attempt,
            ask=lambda: transport.inquire(COMMITS, ASK_SECONDS).values(),
        )
        run = RunProgress(last_committed_step=lambda: max(self.checkpointer.newest_step() or 0, progress.reached()))
        if self._commits is not None:  # on the first rank, which alone asks for the rounds of the others
            run = replace(run, committed_without_me=progress.passed, record=self._commits.add)
            transport.answer(COMMITS, self._commits.answer)
        if config.muloco.chaos.interval_seconds is not None:
            self._expect_faults(config.muloco, transport)
        return build_outer_loop(
            config.muloco,
            parameters,
            transport,
            buffers=self._buffers,
            data_position=lambda: json.dumps(self.dataloader.state_dict()),
            transfer=WorkerTransfer(states, trainer=self),
            progress=run,
            merging=merging,
        )

    def _expect_faults(self, config: RunConfig, transport: Transport) -> None:
        metrics = self.metrics_processor
        injector = FaultInjector(
            schedule=FaultSchedule(config.chaos, workers=config.workers, ranks=config.ranks_per_worker),
            worker=config.fault_tolerance.replica_id,
            rank=dist.get_rank(),
            earlier=metrics.times_of_faults(),
            cut=transport.cut,
            tell=lambda kind, phase: metrics.log_fault(self.step, kind, phase),
        )
        on_hit(injector)

    def close(self) -> None:
        super().close()
        if self.outer is not None:
            self.outer.close()
