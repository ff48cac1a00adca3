"""Validation of the anchor: what the workers have agreed on, not what one of them happens to hold."""

import time
from dataclasses import dataclass

from torch import nn
from torch.distributed.fsdp import FSDPModule

from muloco._torchtitan import Validator
from muloco.outer import OuterLoop
from muloco.phases import reach
from muloco.training.averaging import Averaging


class AnchorValidator(Validator):
    """torchtitan's validator on the anchor's weights; in mid-window it reports the local weights' loss as well."""

    @dataclass(kw_only=True, slots=True)
    class Config(Validator.Config):
        last_step: int
        """Step after which the run ends; validated whatever `freq` says."""

    outer: OuterLoop | None = None
    """The trainer sets it; None: plain training, there is no anchor but the model itself."""
    averaging: Averaging | None = None
    """The trainer sets it; not None: what is validated is this worker's average."""

    def should_validate(self, step: int) -> bool:
        return step % self.config.freq == 0 or step == self.config.last_step

    def validate(self, model_parts: list[nn.Module], step: int) -> None:
        reach("validation")
        started = time.perf_counter()
        tokens, last_log = self.metrics_processor.ntokens_since_last_log, self.metrics_processor.time_last_log
        self._validate(model_parts, step)
        # Validation counts neither as tokens nor as time of training.
        self.metrics_processor.ntokens_since_last_log = tokens
        self.metrics_processor.time_last_log = last_log + time.perf_counter() - started

    def _validate(self, model_parts: list[nn.Module], step: int) -> None:
        if self.averaging is not None:
            with self.averaging.average_weights():
                self._report("validation_loss", model_parts, step)
            return
        if self.outer is None:
            self._report("validation_loss", model_parts, step)
            return
        if not self.outer.parameters_are_anchor:
            self._report("local_validation_loss", model_parts, step)
        with self.outer.anchor_weights():
            self._report("validation_loss", model_parts, step)

    def _report(self, name: str, model_parts: list[nn.Module], step: int) -> None:
        with self.metrics_processor.reporting_validation_as(name):
            super().validate(model_parts, step)
        # FSDP keeps the root's gathered weights after a forward pass without backward: the next pass must not use them.
        for module in (module for part in model_parts for module in part.modules()):
            if isinstance(module, FSDPModule):
                module.reshard()
