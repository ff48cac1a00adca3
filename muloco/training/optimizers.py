"""The inner optimizers as torchtitan builds them: the rule, the settings and the learning rate of each parameter."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from muloco._torchtitan import LRSchedulersContainer, OptimizersContainer, ParamGroupConfig
from muloco.errors import UserError
from muloco.model.architecture import Flavor
from muloco.model.stepped import stepped
from muloco.optim import GPA, Muon
from muloco.optim.choices import Choices
from muloco.optim.rule_optimizer import SHARED
from muloco.settings.optimizer import ResolvedOptimizer
from muloco.training.schedule import inner_share

NO_TRITON = "optimizer.symmetric_products triton needs CUDA devices, and this machine has none; use auto or matmul"


class InnerOptimizers(OptimizersContainer):
    """torchtitan's container of optimizers, which also builds those of muloco and SGD."""

    @dataclass(kw_only=True, slots=True)
    class Config(OptimizersContainer.Config):
        pass

    @staticmethod
    def _resolve_optimizer_factory(name: str) -> Callable[..., torch.optim.Optimizer]:
        return {"Muon": Muon, "GPA": GPA, "SGD": torch.optim.SGD}[name]

    @staticmethod
    def _build_param_groups(model: nn.Module, param_group_configs: list[ParamGroupConfig], impl_kwargs: dict[str, Any]):
        """Leaves out the groups of which a stage of a pipeline has no parameters: torchtitan refuses them."""
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        here = [group for group in param_group_configs if any(re.search(group.pattern, name) for name in names)]
        return OptimizersContainer._build_param_groups(model, here, impl_kwargs)


@dataclass(kw_only=True, slots=True)
class InnerRates(LRSchedulersContainer.Config):
    """torchtitan's schedule, which may end before the run does; the rate then stays constant."""

    decay_type: Literal["linear", "sqrt", "cosine"] = "cosine"

    def build(self, *, optimizers: OptimizersContainer, training_steps: int) -> LRSchedulersContainer:
        share = partial(
            inner_share,
            warmup_steps=self.warmup_steps,
            total_steps=self.total_steps or training_steps,
            least=self.min_lr_factor,
            decay_type=self.decay_type,
            decay_ratio=self.decay_ratio,
        )
        return LRSchedulersContainer(optimizers, share)


def inner_optimizers(
    chosen: ResolvedOptimizer, patterns: Mapping[str, str], size: Flavor | None = None
) -> InnerOptimizers.Config:
    """Returns torchtitan's optimizer config.

    Args:
        chosen: the resolved `optimizer` section.
        patterns: a regular expression for the names of the parameters of each role that the model has. Together they
            have to match all parameters, and each of them some: torchtitan insists on it.
        size: the flavor, which knows stacks of experts and fused projections, and whose parameters the section may
            choose by name. None: all matrices are single ones.

    Raises:
        UserError: `symmetric_products` is `triton`, and there is no CUDA device.
    """
    if chosen.symmetric_products == "triton" and not torch.cuda.is_available():
        raise UserError(NO_TRITON)
    if chosen.name == "SGD":
        sgd = {
            "lr": chosen.lr,
            "weight_decay": chosen.weight_decay,
            "momentum": chosen.mu,
            "nesterov": chosen.nesterov and chosen.mu > 0,
            "fused": False,  # torch's fused SGD takes no DTensors
        }
        return InnerOptimizers.Config(
            param_groups=[ParamGroupConfig(pattern=r".*", optimizer_name="SGD", optimizer_kwargs=sgd)]
        )
    values = asdict(chosen) | {
        "momentum": chosen.mu,
        "steps": chosen.orthogonalization_steps,
        "betas": (chosen.beta1, chosen.beta2),
    }
    by_group = Choices._fields
    shared: dict[str, Any] = {name: values[name] for name in ("lr", *SHARED) if name in values and name not in by_group}
    kind = "Muon"  # whose groups have all rules and one `lr`; what differs is in `lr_factor`
    if chosen.name == "GPA":
        kind = "GPA"
        shared |= {"mu_x": chosen.mu_x, "mu_y": chosen.mu_y}
    forms: list[tuple[str, str, dict[str, Any]]] = [(name, pattern, {}) for name, pattern in patterns.items()]
    if size is not None:
        forms = [(group.role, group.pattern, group.form) for group in stepped(size, chosen.rules(), chosen.choices())]
    groups = []
    for name, pattern, form in forms:
        role = chosen.roles()[name]
        settings: dict[str, Any] = {
            "lr": chosen.lr,
            "role": name,
            "algorithm": role.rule,
            "lr_factor": role.lr_factor,
            "weight_decay": chosen.weight_decay * role.weight_decay_factor,
        }
        groups.append(ParamGroupConfig(pattern=pattern, optimizer_name=kind, optimizer_kwargs=settings | form))
    # options of a single rule are defaults of the optimizer: a group may not have those of another rule
    return InnerOptimizers.Config(param_groups=groups, optimizer_factory_kwargs_by_name={kind: shared})
