"""Validation of the anchor, on which the workers agree, and of each worker's own weights. The anchor is evaluated on
tasks as well, if the config asks for it."""

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.fsdp import FSDPModule

from muloco._torchtitan import Validator
from muloco.outer import OuterLoop
from muloco.phases import reach
from muloco.training.averaging import Averaging
from muloco.training.evaluation import Evaluation, random_state_kept
from muloco.training.states import State

logger = logging.getLogger(__name__)


class AnchorValidator(Validator):
    """torchtitan's validator, on the anchor's weights and on the worker's own.

    At a step at which a sync is due, `validate_own` sees the weights after the inner step and before the outer step,
    and `validate` the new anchor. The mean of the workers' own losses is what the paper's research code reports,
    although that code evaluates one inner step earlier in the window, and on other held-out sequences for each worker.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Validator.Config):
        last_step: int
        """Step after which the run ends; validated whatever `freq` says."""
        evaluated: tuple[int, ...]
        """Steps after which it is evaluated on tasks as well."""

    outer: OuterLoop | None = None
    """The trainer sets it; None: plain training, there is no anchor but the model itself."""
    averaging: Averaging | None = None
    """The trainer sets it; not None: what is validated is this worker's average."""

    evaluation: Evaluation | None = None
    """The trainer sets it; None: no evaluation."""
    ranks: ProcessGroup | None = None
    """The trainer sets it: of this worker, where there are several."""
    done: frozenset[tuple[int, str]] = frozenset()
    """Steps with `validation` or `evaluation` that were done before the run was resumed; the trainer sets it."""

    def should_validate(self, step: int) -> bool:
        return self._validates(step) or self._evaluates(step)

    def validate_own(self, model_parts: list[nn.Module], step: int) -> None:
        """To be called after an inner step, before the outer loop is told of it: reports the loss of the worker's own
        weights as `local_validation_loss`, if the step is validated and there is an anchor next to them. GPA has none:
        there the worker's own average is validated."""
        if self._validates(step) and self.outer is not None and self.averaging is None:
            with self._beside_training():
                self._report("local_validation_loss", model_parts, step)

    def validate(self, model_parts: list[nn.Module], step: int) -> None:
        with self._beside_training(), self._anchor_weights():
            if self._validates(step):
                self._report("validation_loss", model_parts, step)
            if self._evaluates(step):
                self._evaluate(model_parts, step)

    @contextlib.contextmanager
    def _beside_training(self) -> Iterator[None]:
        """Within this context, neither tokens nor time count as training."""
        reach("validation")
        started = time.perf_counter()
        tokens, last_log = self.metrics_processor.ntokens_since_last_log, self.metrics_processor.time_last_log
        yield
        self.metrics_processor.ntokens_since_last_log = tokens
        self.metrics_processor.time_last_log = last_log + time.perf_counter() - started

    def _validates(self, step: int) -> bool:
        due = step % self.config.freq == 0 or step == self.config.last_step
        return due and (step, "validation") not in self.done

    def _evaluates(self, step: int) -> bool:
        due = self.evaluation is not None and step in self.config.evaluated
        return due and (step, "evaluation") not in self.done

    @contextlib.contextmanager
    def _anchor_weights(self) -> Iterator[None]:
        if self.averaging is not None:
            with self.averaging.average_weights():
                yield
        elif self.outer is not None:
            with self.outer.anchor_weights():
                yield
        else:
            yield

    def _evaluate(self, model_parts: list[nn.Module], step: int) -> None:
        assert self.evaluation is not None
        (model,) = model_parts
        started = time.perf_counter()
        self.metrics_processor.enter(State.EVALUATING, step)
        model.eval()
        try:
            with random_state_kept():
                figures = self.evaluation(model, self.ranks, step)
        except Exception as error:  # a task is a program of its own, and the training does not depend on it
            if self.ranks is not None and isinstance(error, RuntimeError):
                raise  # an error of torch may have come to this rank alone, while the others wait for it
            logger.error(
                "the evaluation after step %d failed, and the training goes on: %s: %s",
                step,
                type(error).__name__,
                error,
            )
            self.metrics_processor.log_evaluation_failure(step, f"{type(error).__name__}: {error}")
        else:
            self.metrics_processor.log_evaluation(step, figures, time.perf_counter() - started)
        finally:
            model.train()
            _reshard(model_parts)

    def _report(self, name: str, model_parts: list[nn.Module], step: int) -> None:
        self.metrics_processor.enter(State.VALIDATING, step)
        with self.metrics_processor.reporting_validation_as(name):
            super().validate(model_parts, step)
        _reshard(model_parts)


def _reshard(model_parts: list[nn.Module]) -> None:
    """Ends forward passes that had no backward pass. FSDP keeps the root's gathered weights after them, which the next
    pass must not use. Where a chunked loss has called the output head by itself, FSDP also takes the pass for
    unfinished: the next one would not wait until the weights that are written in between are there."""
    for part in model_parts:
        if isinstance(part, FSDPModule) and hasattr(part, "reset_iter_state"):  # torch 2.11 chunks no loss
            part.reset_iter_state()
        else:
            for module in part.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()
