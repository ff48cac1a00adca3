"""The inner optimizers as torchtitan builds them: which parameter gets which rule, and at which settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from muloco._torchtitan import OptimizersContainer, ParamGroupConfig
from muloco.optim import Muon
from muloco.training.config import Optimizer

MATRICES = r"^layers\.\d+\.(attention\.(qkv_linear\.(wq|wk|wv)|wo)|feed_forward\.w[123])\.weight$"
"""What Muon takes: the matrices of the layers. Embedding, head and norms are AdamW's (PAPER 3.2)."""


class InnerOptimizers(OptimizersContainer):
    """torchtitan's container, which also knows Muon and SGD."""

    @dataclass(kw_only=True, slots=True)
    class Config(OptimizersContainer.Config):
        pass

    @staticmethod
    def _resolve_optimizer_factory(name: str) -> Callable[..., torch.optim.Optimizer]:
        own = {"Muon": Muon, "SGD": torch.optim.SGD}
        return own.get(name) or OptimizersContainer._resolve_optimizer_factory(name)


def inner_optimizers(chosen: Optimizer) -> InnerOptimizers.Config:
    """torchtitan's optimizer config for the `optimizer` section (resolved)."""
    common = {"lr": chosen.lr, "weight_decay": chosen.weight_decay}
    adamw = {**common, "betas": (chosen.beta1, chosen.beta2), "eps": chosen.eps}
    muon = {
        **common,
        "momentum": chosen.mu,
        "nesterov": chosen.nesterov,
        "adjust_lr": chosen.adjust_lr,
        "orthogonalization": chosen.orthogonalization,
    }
    sgd = {
        **common,
        "momentum": chosen.mu,
        "nesterov": chosen.nesterov and chosen.mu > 0,
        "fused": False,  # torch's fused SGD takes no DTensors
    }
    rules: dict[str, list[tuple[str, str, dict[str, Any]]]] = {  # by name: (optimizer, pattern, settings), first match
        "AdamW": [("AdamW", r".*", adamw)],
        "Muon": [("Muon", MATRICES, muon), ("AdamW", r".*", adamw)],
        "SGD": [("SGD", r".*", sgd)],
    }
    groups = [
        ParamGroupConfig(pattern=pattern, optimizer_name=name, optimizer_kwargs=settings)
        for name, pattern, settings in rules[chosen.name]
    ]
    # Muon has no default learning rate; the groups' own is what counts
    return InnerOptimizers.Config(param_groups=groups, optimizer_factory_kwargs_by_name={"Muon": {"lr": chosen.lr}})
