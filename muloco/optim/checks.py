"""What a parameter group must be, said in one line where it is not."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from muloco.optim.lookup import lookup
from muloco.optim.matrices import LAYOUTS
from muloco.optim.muon import LR_SCALES
from muloco.optim.orthogonalize import coefficients


def check_group(group: dict[str, Any], algorithms: Iterable[str]) -> None:
    """
    Args:
        group: with every option set, params as tensors and their names, if any, in `param_names`.
        algorithms: names that are allowed.

    Raises:
        ValueError: an unknown name, a number out of range, or a parameter that the group's algorithm does not take.
    """
    algorithm = group["algorithm"]
    lookup(dict.fromkeys(algorithms), algorithm, "algorithm")
    if isinstance(group["lr"], Tensor) and group["lr"].numel() != 1:
        raise ValueError(f"lr must be a number or a tensor of one element, not of shape {tuple(group['lr'].shape)}")
    for name in ("lr", "lr_factor", "weight_decay"):
        _at_least_zero(group, name)
    if algorithm == "muon":
        _check_muon(group)
    else:
        _check_elementwise(group)


def check_distinct(groups: list[dict[str, Any]], param_group: dict[str, Any]) -> None:
    """
    Raises:
        ValueError: a parameter of `param_group` is in one of `groups`, or is there twice.
    """
    seen = {id(param): name for group in groups for name, param in named(group)}
    for name, param in named(param_group):
        if id(param) in seen:
            raise ValueError(
                f"parameter{called(name or seen[id(param)])} of shape {tuple(param.shape)} is given twice; "
                "a parameter may be in one group only, and once"
            )
        seen[id(param)] = name


def check_gradients(groups: list[dict[str, Any]]) -> None:
    """
    Raises:
        ValueError: a gradient is sparse, or a plain tensor where its parameter is a DTensor.
    """
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


def named(group: dict[str, Any]) -> Iterator[tuple[str | None, Tensor]]:
    """The parameters of a group with their names, or None."""
    names = group.get("param_names") or [None] * len(group["params"])
    return zip(names, group["params"], strict=True)


def called(name: str | None) -> str:
    """For a message: the quoted name behind a space, or nothing."""
    return f" {name!r}" if name is not None else ""


def _check_muon(group: dict[str, Any]) -> None:
    layout = group["layout"]
    if layout is not None:
        lookup(LAYOUTS, layout, "layout")
    for name, param in named(group):
        if param.ndim == 2 and param.is_floating_point():
            continue
        if param.ndim > 2 and param.is_floating_point() and layout is not None:
            continue
        raise ValueError(
            f"Muon takes real matrices only, parameter{called(name)} has shape {tuple(param.shape)} and {param.dtype}; "
            "allowed for others: algorithm 'adamw' or 'lion' in their group, or, for more than two dimensions, "
            "layout 'stacked' or 'flatten'; a module or its named_parameters() are sorted for you"
        )
    _below_one(group["momentum"], "momentum")
    lookup(LR_SCALES, group["adjust_lr"], "adjust_lr")
    coefficients(group["orthogonalization"], group["steps"])


def _check_elementwise(group: dict[str, Any]) -> None:
    for name, param in named(group):
        if not param.is_floating_point():
            raise ValueError(f"only real floating dtypes are allowed, parameter{called(name)} has {param.dtype}")
    betas = group["betas"]
    if not (isinstance(betas, tuple | list) and len(betas) == 2):
        raise ValueError(f"betas must be a pair of numbers, not {betas!r}")
    for index, beta in enumerate(betas):
        _below_one(beta, f"betas[{index}]")
    _at_least_zero(group, "eps")


def _at_least_zero(group: dict[str, Any], name: str) -> None:
    if not group[name] >= 0:
        raise ValueError(f"{name} must be at least 0, not {group[name]}")


def _below_one(value: float, name: str) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), not {value}")
