"""Validation of the anchor, on which the workers agree, and of each worker's own weights. The anchor is evaluated on
tasks as well, if the config asks for it."""

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule

from muloco._torchtitan import IGNORE_INDEX, Validator, device_type
from muloco.data.held_out import HeldOutDataLoader
from muloco.failpoints import hit
from muloco.outer import OuterLoop
from muloco.outer.protocol.header import as_hex
from muloco.runs.states import State
from muloco.sharding import local
from muloco.training.batch_losses import Losses, mean, pack, unpack
from muloco.training.context import WorkerContext, as_on_first_rank
from muloco.training.evaluation import random_state_kept
from muloco.training.validation_cost import is_validated, own_batches, shared_batches

logger = logging.getLogger(__name__)

LEAST_PATIENCE_SECONDS = 10.0
"""Shortest time for which a worker waits for the others' losses before it computes them itself."""


class AnchorValidator(Validator):
    """torchtitan's validator, on the anchor's weights and on the worker's own.

    The workers share the batches to validate the anchor and send their losses to each other. All of them report the
    loss that one worker alone would compute, to the last bit. A worker computes the losses that it does not get in time
    itself, so that it does not depend on the others. The loss is kept until the anchor changes.

    Just before an outer step, `validate_own` validates the worker's weights on its own share of the batches. The
    paper's research code reports the mean of the workers' own losses, but evaluates one inner step earlier, and on
    sequences that change.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Validator.Config):
        last_step: int
        """Step after which the run ends; validated whatever `freq` says."""
        evaluated: tuple[int, ...]
        """Steps after which it is evaluated on tasks as well."""

    config: Config
    dl_config: HeldOutDataLoader.Config
    loss_fn: Callable[..., Any]

    context = WorkerContext()
    """Context of the worker. With GPA this worker's average is validated."""
    _done: frozenset[tuple[int, str]] = frozenset()
    """Steps with `validation` or `evaluation` that were done before the run was resumed."""
    _known: tuple[int, float] | None = None
    """Digest and loss of the anchor that was last validated."""

    def should_validate(self, step: int) -> bool:
        return self._validates(step) or self._evaluates(step)

    def make_up_for(self, model_parts: list[nn.Module], step: int, *, done: Collection[str]) -> None:
        """Validates and evaluates the anchor of a step from which the run is resumed, as far as this is due and is not
        among what was `done` before, `validation` and `evaluation`."""
        self._done = frozenset((step, what) for what in done)
        if self.should_validate(step):
            logger.info("making up for the validation or evaluation that was due after step %d", step)
            self.validate(model_parts, step, alone=True)

    def validate_own(self, model_parts: list[nn.Module], step: int) -> None:
        """Reports the loss of the worker's own weights as `local_validation_loss`, if the step is validated and an
        outer step follows. To be called after an inner step, before the outer loop handles it. With GPA nothing is
        reported: `validate` then validates the worker's own average."""
        if self.context.outer is None or self.context.averaging is not None or not self._validates(step):
            return
        if step == self.config.last_step or self.context.outer.applies_after(step):
            own = self.context.outer.membership.identity
            with self._beside_training():
                losses = self._losses(model_parts, step, own_batches(self._batches, own.worker, own.workers))
                self.metrics_processor.log_held_out_loss("local_validation_loss", mean(losses), step)

    def validate(self, model_parts: list[nn.Module], step: int, *, alone: bool = False) -> None:
        """Reports the loss of the anchor as `validation_loss` and evaluates the anchor on tasks, each if it is due. To
        be called after the outer step, if there is one. With `alone` this worker validates without the others."""
        with self._beside_training():
            if self._validates(step):
                loss = self._anchor_loss(model_parts, step, alone)
                self.metrics_processor.log_held_out_loss("validation_loss", loss, step)
            if self._evaluates(step):
                with self._anchor_weights():
                    self._evaluate(model_parts, step)

    @contextlib.contextmanager
    def _beside_training(self) -> Iterator[None]:
        """Within this context, neither tokens nor time count as training."""
        hit("validation")
        started = time.perf_counter()
        tokens, last_log = self.metrics_processor.ntokens_since_last_log, self.metrics_processor.time_last_log
        yield
        self.metrics_processor.ntokens_since_last_log = tokens
        self.metrics_processor.time_last_log = last_log + time.perf_counter() - started

    def _validates(self, step: int) -> bool:
        due = is_validated(step, freq=self.config.freq, last=self.config.last_step)
        return due and (step, "validation") not in self._done

    def _evaluates(self, step: int) -> bool:
        due = self.context.evaluation is not None and step in self.config.evaluated
        return due and (step, "evaluation") not in self._done

    def _anchor_weights(self) -> AbstractContextManager[None]:
        if self.context.averaging is not None:
            return self.context.averaging.average_weights()
        return contextlib.nullcontext() if self.context.outer is None else self.context.outer.anchor_weights()

    def _evaluate(self, model_parts: list[nn.Module], step: int) -> None:
        assert self.context.evaluation is not None
        (model,) = model_parts
        started = time.perf_counter()
        self.metrics_processor.enter(State.EVALUATING, step)
        model.eval()
        try:
            with random_state_kept():
                figures = self.context.evaluation(model, self.context.ranks, step)
        except Exception as error:  # a task is a program of its own, and the training does not depend on it
            if self.context.ranks is not None and isinstance(error, RuntimeError):
                raise  # an error of torch may have come to this rank alone, while the others wait for it
            reason = f"{type(error).__name__}: {error}"
            logger.error("the evaluation after step %d failed, and the training goes on: %s", step, reason)
            self.metrics_processor.log_event(step, "evaluation_failed", reason=reason)
        else:
            self.metrics_processor.log_evaluation(step, figures, time.perf_counter() - started)
        finally:
            model.train()
            _reshard(model_parts)

    @property
    def _batches(self) -> int:
        """Number of batches in the held-out set. All ranks of this worker compute each batch together."""
        return self.config.steps

    def _anchor_loss(self, model_parts: list[nn.Module], step: int, alone: bool) -> float:
        # with GPA there is no anchor: each worker has its own average
        if self.context.outer is None or self.context.averaging is not None:
            return mean(self._anchor_losses(model_parts, step, range(self._batches)))
        digest = self._digest(self.context.outer)
        if self._known is None or self._known[0] != digest:
            self._known = digest, mean(self._shared_losses(model_parts, step, digest, alone))
        return self._known[1]

    def _digest(self, outer: OuterLoop) -> int:
        """Returns a digest of the whole anchor, over all ranks of this worker."""
        checksum = torch.tensor(outer.anchor_digest())
        if self.context.ranks is not None:
            dist.all_reduce(checksum, group=self.context.ranks)
        return int(checksum)

    def _shared_losses(self, model_parts: list[nn.Module], step: int, digest: int, alone: bool) -> Losses:
        """Returns the anchor's losses on all batches. This worker computes its part and collects the others' losses
        from the members of the last round; it computes missing ones itself. The parameters do not hold the anchor
        during the wait, since that takes a second set of weights."""
        assert self.context.outer is not None
        membership = self.context.outer.membership
        worker, members = membership.identity.worker, membership.members
        alone |= worker not in members  # it has just joined
        place, places = (0, 1) if alone else (members.index(worker), len(members))
        own = shared_batches(self._batches, place, places)
        started = time.perf_counter()
        losses = self._anchor_losses(model_parts, step, own)
        seconds = time.perf_counter() - started
        name = f"held-out-{as_hex(digest)}-{self.local_batch_size * self.dp_world_size}"
        membership.publish(name, pack(losses))
        if places == 1:
            return losses
        as_long_as_here = seconds * (places - 1)
        for part in membership.collect(name, max(LEAST_PATIENCE_SECONDS, as_long_as_here)):
            try:
                losses = unpack(part, batches=self._batches) | losses
            except ValueError as error:
                logger.warning("another worker sent invalid losses for the validation after step %d: %s", step, error)
        losses = as_on_first_rank(losses, self.context.ranks)
        missing = [batch for batch in range(self._batches) if batch not in losses]
        if missing:
            logger.info("validating %d batches after step %d whose losses no other worker provided", len(missing), step)
            losses |= self._anchor_losses(model_parts, step, missing)
        return losses

    def _anchor_losses(self, model_parts: list[nn.Module], step: int, batches: Sequence[int]) -> Losses:
        with self._anchor_weights():
            return self._losses(model_parts, step, batches)

    def _losses(self, model_parts: list[nn.Module], step: int, batches: Sequence[int]) -> Losses:
        """Returns the losses of some batches with the current weights. torchtitan's validator computes them. It reports
        only their mean, so a wrapper around its loss function records them."""
        if not batches:
            return {}
        self.metrics_processor.enter(State.VALIDATING, step)
        heard: list[torch.Tensor] = []
        loss_fn, pieces = self.loss_fn, self._pieces

        def listen(predictions: torch.Tensor, labels: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.metrics_processor.enter(State.VALIDATING, step)  # a sign of life at each batch
            losses = loss_fn(predictions, labels, *args, **kwargs)
            heard.append(torch.stack([local(losses[0]).detach().double(), (labels != IGNORE_INDEX).sum().double()]))
            return losses

        read = [piece for batch in batches for piece in range(batch * pieces, (batch + 1) * pieces)]
        self.dl_config = replace(self.dl_config, batches=tuple(read))
        with self._loss(listen):
            super().validate(model_parts, step)
        _end_passes(model_parts)
        # sums of fp32 numbers of similar size, exact in fp64 in any order
        if self.pp_schedule is None or self.pp_has_last_stage:
            table = torch.stack(heard).unflatten(0, (len(batches), pieces)).sum(1)
        else:
            table = torch.zeros(len(batches), 2, dtype=torch.float64, device=device_type())
        if self.pp_schedule is not None:
            dist.all_reduce(table, group=self.parallel_dims.get_mesh("pp").get_group())
        if self.parallel_dims.dp_cp_enabled:
            dist.all_reduce(table, group=self.parallel_dims.get_mesh("loss").get_group())
        return {batch: (total, int(tokens)) for batch, (total, tokens) in zip(batches, table.tolist(), strict=True)}

    @property
    def _pieces(self) -> int:
        """Number of microbatches in a batch, which go through a pipeline one after the other; 1 without a pipeline."""
        if self.pp_schedule is None:
            return 1
        return self.local_batch_size // self.parallelism.pipeline_parallel_microbatch_size

    @contextlib.contextmanager
    def _loss(self, loss_fn: Callable[..., Any]) -> Iterator[None]:
        """Within the context the passes have this loss function. A pipeline's schedule keeps one for itself, which
        returns the loss alone."""
        before, self.loss_fn = self.loss_fn, loss_fn
        of_schedule = self.pp_schedule and self.pp_schedule._loss_fn
        if self.pp_schedule is not None:
            self.pp_schedule._loss_fn = lambda *args, **kwargs: loss_fn(*args, **kwargs)[0]
        try:
            yield
        finally:
            self.loss_fn = before
            if self.pp_schedule is not None:
                self.pp_schedule._loss_fn = of_schedule


def _end_passes(model_parts: list[nn.Module]) -> None:
    """Ends forward passes that had no backward pass and were followed by the loss. If a chunked loss has called the
    output head by itself, FSDP considers the pass unfinished, and the next pass would not wait for weights that are
    written in between."""
    for part in model_parts:
        if isinstance(part, FSDPModule) and hasattr(part, "reset_iter_state"):  # not in torch 2.11
            part.reset_iter_state()
        else:
            _reshard([part])


def _reshard(model_parts: list[nn.Module]) -> None:
    """Frees the gathered weights of the root, which FSDP keeps after a forward pass without a backward pass: the next
    pass must not use them."""
    for part in model_parts:
        for module in part.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
