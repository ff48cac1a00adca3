"""The parameter groups of an optimizer: how they are read and checked. Errors are one line each."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from muloco.optim.choices import ALGORITHMS
from muloco.optim.fused import parts
from muloco.optim.layouts import matrix_shape
from muloco.optim.roles import UNDECAYED, named
from muloco.optim.rule import Option, Read, at_least_zero, lookup, switch
from muloco.optim.rules import RULES
from muloco.suggest import allowed

OPTIONS: dict[str, Option] = {option.name: option for rule in RULES.values() for option in rule.options}
"""The options of all rules, by name."""

GROUP_OPTIONS = {"algorithm", "use_muon", "role", "lr_factor", *OPTIONS}
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
            raise ValueError(f"unknown key {name!r} in a parameter group: {instead(name, known)}")
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
    """Raises ValueError if a group, as a user wrote it, without defaults, has an option that its algorithm does not
    use. Options that are off (None or False) may be there."""
    for name, value in group.items():
        option = OPTIONS.get(name)
        if option is None or option.allowed_everywhere or value is None or value is False:
            continue
        takers = [rule.name for rule in RULES.values() if option in rule.options]
        if algorithm not in takers:
            raise ValueError(
                f"{name} has no effect in a parameter group with algorithm {algorithm!r}: only "
                f"{' and '.join(map(repr, takers))} {'takes' if len(takers) == 1 else 'take'} it"
            )


def read_rate(name: str, value: Any) -> float | Tensor:
    """Checks a learning rate, which may be a tensor and then stays one."""
    if not isinstance(value, Tensor):
        return at_least_zero(name, value)
    if value.numel() != 1:
        raise ValueError(f"{name} must be a number or a tensor of one element, not of shape {tuple(value.shape)}")
    at_least_zero(name, value.item())
    return value


def read_by_pattern(name: str, value: Any) -> Mapping[str, Any]:
    """Checks what a constructor is given by regular expressions of names; None is nothing.

    Raises:
        ValueError: it is no mapping from texts, or to something else than a group may have.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(pattern, str) for pattern in value):
        example = {"role_of": "{'gate': 'other'}", "split": "{'wqkv': [64, 64, 64]}", "per_head": "{'wq': 64}"}
        raise ValueError(f"{name} must be by regular expressions of names, such as {example[name]}, not {value!r}")
    if name not in OPTIONS:
        return value
    return {pattern: OPTIONS[name].read(f"{name}[{pattern!r}]", given) for pattern, given in value.items()}


READ: dict[str, Read] = {
    "lr": read_rate,
    "lr_factor": at_least_zero,
    "weight_decay": at_least_zero,
    "cautious_weight_decay": switch,
    **{name: option.read for name, option in OPTIONS.items()},
}
"""How the options are read that all optimizers have."""


def read_values(group: dict[str, Any], own: Mapping[str, Read]) -> None:
    """Checks the options of a group, the optimizer's `own` ones included, and converts numbers to Python's own, in
    place.

    Raises:
        ValueError: a value has the wrong type, is not finite or out of range, or is an unknown name.
    """
    for name, read in (READ | dict(own)).items():
        if name in group:
            group[name] = read(name, group[name])


def check_params(group: dict[str, Any]) -> None:
    """Raises ValueError for a parameter that the algorithm of a group, which has every option set, does not take."""
    rule = RULES[group["algorithm"]]
    for name, param in named(group):
        if rule.takes == "matrices":
            _check_matrix(rule.label, name, param, group)
        elif not param.is_floating_point():
            raise ValueError(f"only real floating dtypes are allowed, but parameter{called(name)} has {param.dtype}")


def check_distinct(groups: list[dict[str, Any]], param_group: dict[str, Any]) -> None:
    """Raises ValueError if a parameter of `param_group` is in one of `groups`, or is there twice."""
    seen = {id(param): name for group in groups for name, param in named(group)}
    for name, param in named(param_group):
        if id(param) in seen:
            raise ValueError(
                f"parameter{called(name or seen[id(param)])} of shape {tuple(param.shape)} is given twice; "
                "a parameter may be in one group only, and once"
            )
        seen[id(param)] = name


def check_gradients(groups: list[dict[str, Any]]) -> None:
    """Raises ValueError if a gradient is sparse, or a plain tensor where its parameter is a DTensor."""
    for group in groups:
        for name, param in named(group):
            if isinstance(param, DTensor) and not isinstance(param.grad, DTensor | None):
                raise ValueError(
                    f"parameter{called(name)} of shape {tuple(param.shape)} is a DTensor, and its gradient is not; "
                    "distribute it as the parameter is"
                )
            if param.grad is not None and param.grad.layout != torch.strided:
                raise ValueError(
                    f"parameter{called(name)} of shape {tuple(param.shape)} has a gradient of {param.grad.layout}; "
                    "only dense ones are allowed, so build an embedding with sparse=False"
                )


def called(name: str | None) -> str:
    """For a message: the quoted name behind a space, or nothing."""
    return f" {name!r}" if name is not None else ""


def _check_matrix(rule: str, name: str | None, param: Tensor, group: Mapping[str, Any]) -> None:
    layout = group["layout"]
    what = f"parameter{called(name)} has shape {tuple(param.shape)} and {param.dtype}"
    others = " or ".join(repr(name) for name, other in RULES.items() if other.takes == "anything")
    if not param.is_floating_point() or param.ndim < 2:
        raise ValueError(
            f"{rule} takes only real matrices, but {what}; give its group algorithm {others}, or pass a module "
            "or its named_parameters(), which are sorted automatically"
        )
    if param.ndim == 3 and layout is None:
        raise ValueError(
            f"{what}; its group must have layout 'stacked' for matrices or layout 'flatten' for a convolution, or "
            f"algorithm {others}"
        )
    if param.ndim != 2 and layout == "transposed":
        raise ValueError(f"layout 'transposed' is for two dimensions, but {what}")
    try:
        parts(matrix_shape(param.shape, layout)[0], group.get("split"), group.get("per_head"))
    except ValueError as error:
        raise ValueError(f"parameter{called(name)} of shape {tuple(param.shape)} {error}") from None


def instead(name: str, known: Collection[str]) -> str:
    """Says what to use in place of an option that there is not, given those that there are."""
    if name in NOT_TAKEN:
        return NOT_TAKEN[name]
    if name == "lr" and "inner_lr" in known:
        return "use inner_lr for the inner steps, and outer_lr for the outer ones"
    return allowed(str(name), sorted(known))
