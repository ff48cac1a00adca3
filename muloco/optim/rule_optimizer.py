"""An optimizer whose groups say by which rule their parameters are stepped."""

import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.distributed import ProcessGroup

from muloco.optim.choices import ALGORITHMS, Choices
from muloco.optim.groups import (
    OPTIONS,
    check_distinct,
    check_gradients,
    check_params,
    instead,
    read_by_pattern,
    read_group,
    read_values,
    refuse_unused,
)
from muloco.optim.owners import Plan
from muloco.optim.roles import describe_groups, group_by_role
from muloco.optim.rule import Read, lookup
from muloco.optim.rules import RULES
from muloco.optim.symmetric import WAYS
from muloco.optim.whole_matrices import step_whole_matrices

logger = logging.getLogger(__name__)

DEFAULT = ALGORITHMS["matrix"]
"""The rule of a group that names none."""

SHARED: dict[str, Any] = {
    **{option.name: option.default for option in OPTIONS.values() if option.in_constructor},
    "cautious_weight_decay": False,
    "process_group": None,
    "symmetric_products": "auto",
    "role_of": None,
    "split": None,
    "per_head": None,
}
"""Keywords that the constructors of all optimizers have, with their defaults."""


class RuleOptimizer(torch.optim.Optimizer):
    """Base of `Muon`, `MuLoCo1` and `GPA`: it sorts and checks the groups, and takes one inner step by their rules. A
    subclass gives the defaults of the options that it has for itself, `lr` and `weight_decay` among them, and those
    options of `SHARED` that it was given."""

    own_options: ClassVar[Mapping[str, Read]] = {}
    """How the options are read that only this optimizer has."""

    _process_group: ProcessGroup | None = None  # of a copied or pickled optimizer, as groups can be neither

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Lists the keywords of `SHARED` in the signature in place of `**options`."""
        super().__init_subclass__(**kwargs)
        signature = inspect.signature(cls.__init__)
        _, *parameters = signature.parameters.values()
        if parameters[-1].name == "options":
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters[-1:] = [inspect.Parameter(name, kind, default=default) for name, default in SHARED.items()]
        cls.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]

    def __init__(self, params: nn.Module | Iterable[Any], defaults: dict[str, Any], options: dict[str, Any]) -> None:
        if unknown := [name for name in options if name not in SHARED]:
            hint = instead(unknown[0], inspect.signature(type(self)).parameters)
            raise TypeError(f"{type(self).__name__} has no option {unknown[0]!r}: {hint}")
        options = SHARED | options
        process_group = options.pop("process_group")
        if process_group is not None and not isinstance(process_group, ProcessGroup):
            raise ValueError(
                f"process_group must be None or a torch.distributed.ProcessGroup with this rank, not {process_group!r}"
            )
        self._process_group = process_group
        self._plan = Plan()
        self._symmetric_products = options.pop("symmetric_products")
        lookup(dict.fromkeys(WAYS), self._symmetric_products, "symmetric_products")
        choices = Choices(**{name: read_by_pattern(name, options.pop(name)) for name in Choices._fields})
        read_values(options, {})
        read_values(defaults, self.own_options)
        # Of options that are not in all groups: OneCycleLR and CyclicLR would find betas among torch's defaults, and
        # cycle them in place of Muon's momentum.
        of_some_rules = [name for name, option in OPTIONS.items() if name in options and not option.in_all_groups]
        self._of_some_rules = {name: options.pop(name) for name in of_some_rules}
        in_groups = {option.name: option.default for option in OPTIONS.values() if option.in_all_groups}
        own = {"algorithm": DEFAULT, "lr_factor": 1.0}
        super().__init__(group_by_role(params, choices), own | in_groups | defaults | options)
        if any("role" in group for group in self.param_groups):
            logger.info("parameters by rule:\n%s", self.describe_groups())

    def describe_groups(self) -> str:
        """Lines to print that say which parameter gets which rule; `str()` gives them as well."""
        return describe_groups(self.param_groups)

    account = describe_groups  # its former name, which users of `muloco.pytorch` may call

    def __str__(self) -> str:
        return f"{type(self).__name__}\n{self.describe_groups()}"

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as in `torch.optim.Optimizer`.

        Raises:
            ValueError: as for the class; the optimizer is then as it was.
        """
        before = self.param_groups[:]
        group = self._read(param_group, self.defaults)
        written = dict(group)  # torch adds the defaults of every rule
        try:
            # On its own first: torch would refuse a parameter of another group, but not say which.
            self.param_groups = []
            super().add_param_group(group)
            check_distinct(before, group)
            self._check(group)
            refuse_unused(written, group["algorithm"])
        finally:
            self.param_groups = before
        super().add_param_group(group)

    def _read(self, group: Mapping[str, Any], options: Collection[str]) -> dict[str, Any]:
        """Reads a group as `read_group` does, and adds the options that only its algorithm has."""
        result = read_group(group, options)
        rule = lookup(RULES, result.get("algorithm", DEFAULT), "algorithm")
        for option in rule.options:
            if option.name in self._of_some_rules:
                result.setdefault(option.name, self._of_some_rules[option.name])
        return result

    def _check(self, group: dict[str, Any]) -> None:
        read_values(group, self.own_options)
        check_params(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns what `closure`, called first, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        check_gradients(self.param_groups)
        if torch.compiler.is_compiling():  # compiling gains nothing, and Dynamo of torch 2.13 gets outer steps wrong
            torch.compiler.disable(self._step)()
        else:
            self._step()
        return loss

    def _step(self) -> None:
        """The step itself; to be extended here and not in `step`, around which torch wraps the hooks of every class."""
        whole_matrices = []  # of all groups at once, as ranks share the work
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            rule = RULES[group["algorithm"]]
            if rule.step is not None:
                rule.step(params, group, self.state)
            else:
                whole_matrices.append((params, group))
        step_whole_matrices(whole_matrices, self.state, self._plan, self._process_group, self._symmetric_products)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {
            "_of_some_rules": self._of_some_rules,
            "_symmetric_products": self._symmetric_products,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "defaults" not in state:  # from a checkpoint, and not from a copied or pickled optimizer
            present = set().union(*self.param_groups)  # keys of an existing group may be in a checkpoint, too
            groups = [self._read(group, {*self.defaults, *present}) for group in state["param_groups"]]
            for group in groups:
                for name in self.defaults.keys() - {"differentiable"}:  # which torch adds here
                    group.setdefault(name, self.defaults[name])  # for checkpoints that are older than an option
                self._check(group)
            state = state | {"param_groups": groups}
        super().__setstate__(state)
        self._plan = Plan()  # the plan is not copied or pickled with the optimizer
