"""Checks of a parameter group, whose errors are one line."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from muloco.optim.lookup import lookup
from muloco.optim.matrices import LAYOUTS
from muloco.optim.muon import LR_SCALES
from muloco.optim.orthogonalize import coefficients
from muloco.optim.roles import named


def check_group(group: dict[str, Any], algorithms: Iterable[str]) -> None:
    """
    Args:
        group: has every option set, params as tensors and their names, if any, in `param_names`.
        algorithms: names that are allowed.

    Raises:
        ValueError: an unknown name, or a parameter that the group's algorithm does not take.
    """
    algorithm = group["algorithm"]
    lookup(dict.fromkeys(algorithms), algorithm, "algorithm")
    lookup(LR_SCALES, group["adjust_lr"], "adjust_lr")
    coefficients(group["orthogonalization"], group["steps"])
    if group["layout"] is not None:
        lookup(LAYOUTS, group["layout"], "layout")
    for name, param in named(group):
        if algorithm == "muon":
            _check_matrix(name, param, group["layout"])
        elif not param.is_floating_point():
            raise ValueError(f"only real floating dtypes are allowed, but parameter{called(name)} has {param.dtype}")


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


def called(name: str | None) -> str:
    """For a message: the quoted name behind a space, or nothing."""
    return f" {name!r}" if name is not None else ""


def _check_matrix(name: str | None, param: Tensor, layout: str | None) -> None:
    what = f"parameter{called(name)} has shape {tuple(param.shape)} and {param.dtype}"
    if not param.is_floating_point() or param.ndim < 2:
        raise ValueError(
            f"Muon takes only real matrices, but {what}; give its group algorithm 'adamw' or 'lion', or pass a module "
            "or its named_parameters(), which are sorted automatically"
        )
    if param.ndim == 3 and layout is None:
        raise ValueError(
            f"{what}; its group must have layout 'stacked' for matrices or layout 'flatten' for a convolution, or "
            "algorithm 'adamw' or 'lion'"
        )
    if param.ndim != 2 and layout == "transposed":
        raise ValueError(f"layout 'transposed' is for two dimensions, but {what}")
