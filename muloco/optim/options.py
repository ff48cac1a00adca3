"""The options of a parameter group, and how they are read."""

import math
from collections.abc import Collection, Mapping
from numbers import Integral, Real
from typing import Any, Never

from torch import Tensor

from muloco.optim.lookup import lookup
from muloco.optim.roles import ALGORITHMS, UNDECAYED
from muloco.suggest import allowed

GROUP_OPTIONS = ("algorithm", "use_muon", "role", "lr_factor", "layout", "betas", "fused", "foreach")
"""Options of a group in addition to those of the constructors."""

BOOKKEEPING = (
    "params",
    "param_names",
    "name",
    "initial_lr",
    "max_lr",
    "min_lr",
    "base_momentum",
    "max_momentum",
    "swa_lr",
)
"""Keys that torch, its schedulers and loggers keep in a group."""

_ADAMWS = "set it in a group with algorithm 'adamw', as in torch.optim.AdamW; Muon's step is made of batched products"

NOT_TAKEN = {
    "fused": _ADAMWS,
    "foreach": _ADAMWS,
    "maximize": "negate the loss instead",
    "capturable": "a step is planned on the host and cannot be captured as a CUDA graph",
    "differentiable": "a step records no gradient",
    "amsgrad": "the adamw rule has no such variant",
    "inner_lr": "use lr, which schedulers set; only MuLoCo1's constructor has inner_lr",
}
"""Options of other optimizers that a group or a constructor does not have, with the reason."""

TAKEN_BY = {
    **dict.fromkeys(("momentum", "nesterov", "adjust_lr", "orthogonalization", "steps", "layout"), ("muon",)),
    "betas": ("adamw", "lion"),
    "eps": ("adamw",),
}
"""The algorithms that an option is for. An option that is not here is for all, or, as `fused` and `foreach`, which
torchtitan writes into every group, changes no result."""

_AT_LEAST_ZERO = ("lr", "lr_factor", "weight_decay", "eps", "outer_lr")
_BELOW_ONE = ("momentum", "outer_momentum", "mu_x")
_SWITCHES = ("nesterov", "cautious_weight_decay")


def refuse_keywords(kind: str, given: Mapping[str, Never], allowed: Collection[str]) -> None:
    """
    Args:
        kind: name of the optimizer.
        given: the keywords that its constructor does not have.
        allowed: the keywords that it has.

    Raises:
        TypeError: `given` is not empty.
    """
    for name in given:
        raise TypeError(f"{kind} has no option {name!r}: {_instead(name, allowed)}")


def read_group(group: Mapping[str, Any], options: Collection[str]) -> dict[str, Any]:
    """A group as given by a user or a checkpoint, in this package's options.

    `use_muon`, as in Keller Jordan's optimizers, becomes `algorithm`, and so does `role` if there is no algorithm. A
    role without weight decay has none unless the group sets it. Options of torch's optimizers that are off are removed.

    Args:
        group: see `Muon`.
        options: names that it may have in addition to `GROUP_OPTIONS` and `BOOKKEEPING`.

    Raises:
        ValueError: a key is unknown, or two keys contradict each other.
    """
    known = {*GROUP_OPTIONS, *options}
    off = {name for name in NOT_TAKEN if name not in known and group.get(name) in (None, False)}
    result = {name: value for name, value in group.items() if name not in off}
    for name in result:
        if name not in known and name not in BOOKKEEPING:
            raise ValueError(f"unknown key {name!r} in a parameter group: {_instead(name, known)}")
    if "use_muon" in result:
        wanted = result.pop("use_muon")
        if not isinstance(wanted, bool):
            raise ValueError(f"use_muon must be True or False, not {wanted!r}")
        algorithm = result.setdefault("algorithm", "muon" if wanted else "adamw")
        if (algorithm == "muon") != wanted:
            raise ValueError(
                f"a parameter group has use_muon {wanted} and algorithm {algorithm!r}; give one of the two"
            )
    if result.get("role") is not None:
        if "algorithm" not in result:
            result["algorithm"] = lookup(ALGORITHMS, result["role"], "role")
        if result["role"] in UNDECAYED:
            result.setdefault("weight_decay", 0.0)
    return result


def refuse_unused(group: Mapping[str, Any], algorithm: str) -> None:
    """
    Args:
        group: what a user wrote, without defaults. Options that are off (None or False) may be there.
        algorithm: the group's.

    Raises:
        ValueError: it has an option that its algorithm does not use.
    """
    for name, value in group.items():
        takers = TAKEN_BY.get(name, (algorithm,))
        if algorithm not in takers and value is not None and value is not False:
            raise ValueError(
                f"{name} has no effect in a parameter group with algorithm {algorithm!r}: only "
                f"{' and '.join(map(repr, takers))} {'takes' if len(takers) == 1 else 'take'} it"
            )


def read_numbers(group: dict[str, Any]) -> None:
    """Converts the numbers of a group to Python's own, in place; an lr that is a tensor stays one.

    Raises:
        ValueError: a value is not a number, not finite or out of range.
    """
    for name in group.keys() & {*_AT_LEAST_ZERO}:
        if name == "lr" and isinstance(group[name], Tensor):
            if group[name].numel() != 1:
                raise ValueError(
                    f"lr must be a number or a tensor of one element, not of shape {tuple(group[name].shape)}"
                )
            _at_least_zero(name, group[name].item())
        else:
            group[name] = _at_least_zero(name, group[name])
    for name in group.keys() & {*_BELOW_ONE}:
        group[name] = _below_one(name, group[name])
    for name in group.keys() & {*_SWITCHES}:
        if not isinstance(group[name], bool):
            raise ValueError(f"{name} must be True or False, not {group[name]!r}")
    for name in group.keys() & {"fused", "foreach"}:
        if group[name] is not None and not isinstance(group[name], bool):
            raise ValueError(f"{name} must be True, False or None, not {group[name]!r}")
    if "betas" in group:
        betas = group["betas"]
        if not (isinstance(betas, tuple | list) and len(betas) == 2):
            raise ValueError(f"betas must be a pair of numbers, not {betas!r}")
        group["betas"] = tuple(_below_one(f"betas[{index}]", beta) for index, beta in enumerate(betas))
    if "mu_y" in group:
        group["mu_y"] = _number("mu_y", group["mu_y"])
        if not 0 < group["mu_y"] <= 1:
            raise ValueError(f"mu_y must be in (0, 1], not {group['mu_y']}")
    for name, least in (("steps", 1), ("sync_interval", 1), ("window", 0)):
        if name in group and not (name == "steps" and group[name] is None):
            group[name] = _integer(name, group[name], least)


def _instead(name: str, known: Collection[str]) -> str:
    if name in NOT_TAKEN:
        return NOT_TAKEN[name]
    if name == "lr" and "inner_lr" in known:
        return "use inner_lr for the inner steps, and outer_lr for the outer ones"
    return allowed(str(name), sorted(known))


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name} must be a number, not {value!r}")
    return value if isinstance(value, int) else float(value)  # numpy's would not survive torch.load


def _at_least_zero(name: str, value: Any) -> float:
    value = _number(name, value)
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, not {value}")
    if value == math.inf:
        raise ValueError(f"{name} must be finite, not {value}")
    return value


def _below_one(name: str, value: Any) -> float:
    value = _number(name, value)
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), not {value}")
    return value


def _integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        what = "a positive integer or None" if name == "steps" else f"an integer of at least {least}"
        raise ValueError(f"{name} must be {what}, not {value!r}")
    return int(value)
