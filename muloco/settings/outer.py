"""The outer optimizer."""

from dataclasses import dataclass
from typing import Literal

from muloco.settings.bounds import Momentum, Positive, Share
from muloco.settings.section import Section


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
    """How the outer learning rate falls over the run."""
    min_lr_factor: Share = 0.1
    """Outer learning rate at the end, as a share of `lr`, where it falls."""
    offload: bool = False
    """Keep anchor and outer state in pinned host memory instead of on the device."""
