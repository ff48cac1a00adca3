"""An optimizer whose groups say by which rule their parameters are stepped."""

import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Never

import torch
from torch import nn
from torch.distributed import ProcessGroup

from muloco.optim.adamw import adamw_update
from muloco.optim.checks import check_distinct, check_gradients, check_group
from muloco.optim.lion import lion_update
from muloco.optim.lookup import lookup
from muloco.optim.muon import muon_update
from muloco.optim.options import read_group, read_numbers, refuse_keywords, refuse_unused
from muloco.optim.owners import Plan
from muloco.optim.roles import account, sort
from muloco.optim.symmetric import WAYS

logger = logging.getLogger(__name__)

ELEMENTWISE: dict[str, Callable[..., None]] = {"adamw": adamw_update, "lion": lion_update}
"""Rules that step each group, and each shard, for itself."""
RULES = ("muon", *ELEMENTWISE)
"""What a group's `algorithm` may be."""


class ByRule(torch.optim.Optimizer):
    """Base of `Muon` and `MuLoCo1`: it sorts and checks the groups, and takes one inner step by their rules.

    Args:
        params: see `Muon`.
        defaults: of every option of the rules but `betas`.
        betas: default of the groups that have some.
        process_group, symmetric_products: see `Muon`.
        unknown: keywords that the constructor does not have, which are refused.
    """

    _process_group: ProcessGroup | None = None  # of a copied or pickled optimizer, as groups can be neither
    _symmetric_products = "auto"  # default of optimizers pickled by versions without this option

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        defaults: dict[str, Any],
        *,
        betas: tuple[float, float],
        process_group: ProcessGroup | None,
        symmetric_products: str,
        unknown: Mapping[str, Never],
    ) -> None:
        keywords = [name for name in inspect.signature(type(self)).parameters if name != "unknown"]
        refuse_keywords(type(self).__name__, unknown, keywords)
        if process_group is not None and not isinstance(process_group, ProcessGroup):
            raise ValueError(
                f"process_group must be None or a torch.distributed.ProcessGroup with this rank, not {process_group!r}"
            )
        self._process_group = process_group
        self._plan = Plan()
        self._symmetric_products = lookup({way: way for way in WAYS}, symmetric_products, "symmetric_products")
        # Among the defaults, OneCycleLR and CyclicLR would find them and cycle them in place of Muon's momentum.
        checked: dict[str, Any] = {"betas": betas}
        read_numbers(checked)
        self._betas = checked["betas"]
        own = {"algorithm": "muon", "lr_factor": 1.0, "layout": None}
        read_numbers(defaults)
        super().__init__(sort(params), own | defaults)
        if any("role" in group for group in self.param_groups):
            logger.info("parameters by rule:\n%s", self.account())

    def account(self) -> str:
        """Lines to print that say which parameter gets which rule; `str()` gives them as well."""
        return account(self.param_groups)

    def __str__(self) -> str:
        return f"{type(self).__name__}\n{self.account()}"

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
        """Reads a group as `read_group` does, and adds betas if the algorithm has some."""
        result = read_group(group, options)
        if result.get("algorithm", "muon") != "muon":
            result.setdefault("betas", self._betas)
        return result

    def _check(self, group: dict[str, Any]) -> None:
        """Checks a group with every option set. Raises ValueError."""
        read_numbers(group)
        check_group(group, RULES)

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
        given = [([param for param in group["params"] if param.grad is not None], group) for group in self.param_groups]
        for params, group in given:
            if group["algorithm"] in ELEMENTWISE:
                ELEMENTWISE[group["algorithm"]](params, group, self.state)
        # of all groups at once, as ranks share the work
        muon = [one for one in given if one[1]["algorithm"] == "muon"]
        muon_update(muon, self.state, self._plan, self._process_group, self._symmetric_products)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_betas": self._betas, "_symmetric_products": self._symmetric_products}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "defaults" not in state:  # from a checkpoint, and not from a copied or pickled optimizer
            own = set().union(*self.param_groups)  # keys of an existing group may be in a checkpoint, too
            groups = [self._read(group, {*self.defaults, *own}) for group in state["param_groups"]]
            for group in groups:
                for name in self.defaults.keys() - {"differentiable"}:  # which torch adds here
                    group.setdefault(name, self.defaults[name])  # for checkpoints that are older than an option
                self._check(group)
            state = state | {"param_groups": groups}
        super().__setstate__(state)
        self._plan = Plan()  # the plan is not copied or pickled with the optimizer
