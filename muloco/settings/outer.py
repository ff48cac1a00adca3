"""The outer optimizer."""

from dataclasses import dataclass
from typing import Literal

from muloco.errors import UserError
from muloco.settings.annotations import MayChange, Momentum, Positive, Share
from muloco.settings.section import Origins, Section


@dataclass(kw_only=True, slots=True)
class OuterOptimizer(Section):
    """The step on the anchor (the global parameters), with the mean pseudogradient as gradient."""

    class_name: Literal["sgd", "adamw", "muon"] = "sgd"
    """sgd with momentum; adamw without weight decay; muon for matrices and adamw for the rest."""
    lr: Positive | None = None
    """Outer learning rate. Derived: 0.7; 1 with local_sgd."""
    momentum: Momentum | None = None
    """Outer momentum of sgd and muon. Derived: 0.6; 0 with local_sgd."""
    nesterov: bool = True
    """Nesterov momentum: theta -= lr (g + momentum buf) instead of theta -= lr buf."""
    beta1: Momentum = 0.9
    """First decay of adamw."""
    beta2: Momentum = 0.99
    """Second decay of adamw."""
    eps: Positive = 1e-8
    """Epsilon of adamw."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the outer learning rate changes over the run."""
    min_lr_factor: Share = 0.1
    """Outer learning rate at the end of a linear or cosine schedule, as a share of `lr`."""
    offload: MayChange[bool] = False
    """Keep anchor and outer state in pinned host memory instead of on the device."""

    def complete(self, method: str, origins: Origins) -> None:
        """Derives the learning rate and the momentum for a `fault_tolerance.semi_sync_method`.

        Raises:
            UserError: the method is to average the workers, and this section would do something else.
        """
        averages = method in ("local_sgd", "gpa")
        if averages and (self.class_name != "sgd" or self.lr not in (None, 1.0) or self.momentum not in (None, 0.0)):
            raise UserError(
                f"fault_tolerance.semi_sync_method {method} averages the workers: its outer optimizer is sgd "
                f"with lr 1 and momentum 0; got {self.class_name}, {self.lr}, {self.momentum} (diloco takes any)"
            )
        origin = f"{method}, which averages the workers" if averages else "the paper's best with one worker"
        self.derive("lr", 1.0 if averages else 0.7, origin, origins)
        self.derive("momentum", 0.0 if averages else 0.6, origin, origins)


@dataclass(kw_only=True, slots=True)
class ResolvedOuterOptimizer(OuterOptimizer):
    lr: Positive
    momentum: Momentum
