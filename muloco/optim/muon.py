"""Muon's rule for one parameter group: momentum, orthogonalized."""

import math
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import torch
from torch import Tensor

from muloco.optim.decay import decay_
from muloco.optim.lookup import lookup
from muloco.optim.matrices import from_matrices, matrix_shape, to_matrices
from muloco.optim.orthogonalize import coefficients, orthogonal_direction
from muloco.sharding import gather, local, shard_like

__all__ = ["BATCH_ELEMENTS", "LR_SCALES", "muon_update"]

LR_SCALES: dict[str, Callable[[int, int], float]] = {
    "spectral_norm": lambda rows, cols: math.sqrt(rows / cols),
    "rms_norm": lambda rows, cols: 0.2 * math.sqrt(max(rows, cols)),
    "none": lambda rows, cols: 1.0,
}
"""What the learning rate of a `[rows, cols]` = `[fan_out, fan_in]` matrix is multiplied by, by name."""

BATCH_ELEMENTS = {"cpu": 2**19, "cuda": 2**24}
"""Matrices of one shape are orthogonalized together, up to so many elements, by device: more leave a CPU's caches,
fewer leave cores idle when the matrices are small. That of a GPU is not measured."""


def muon_update(params: list[Tensor], group: dict[str, Any], state: MutableMapping[Tensor, Any]) -> None:
    """One step, in place, of parameters that have a gradient; state: `momentum_buffer`. See `muloco.optim.Muon`."""
    for alike in _batches(params):
        _update(alike, group, state)


def _update(params: list[Tensor], group: dict[str, Any], state: MutableMapping[Tensor, Any]) -> None:
    updates = _stack([gather(_accumulate(param, group, state[param])) for param in params])
    shape, layout = params[0].shape, group["layout"]
    scale = lookup(LR_SCALES, group["adjust_lr"], "adjust_lr")(*matrix_shape(shape, layout))
    lr = group["lr"] * group["lr_factor"]
    triples = coefficients(group["orthogonalization"], group["steps"])
    if isinstance(lr, Tensor):  # reading it would wait for the device
        directions = orthogonal_direction(to_matrices(updates, layout), triples, scale) * lr
    else:
        directions = orthogonal_direction(to_matrices(updates, layout), triples, lr * scale)
    for param, direction in zip(params, from_matrices(directions, shape), strict=True):
        own = shard_like(direction, param)
        decay_(local(param), own, lr * group["weight_decay"], cautious=group["cautious_weight_decay"])
        local(param).sub_(own)


def _accumulate(param: Tensor, group: dict[str, Any], own: dict[str, Any]) -> Tensor:
    assert param.grad is not None
    if "momentum_buffer" not in own:
        own["momentum_buffer"] = torch.zeros_like(param)
    buffer = own["momentum_buffer"]
    if local(buffer) is buffer:  # in one pass over the memory, half the time
        torch.add(param.grad, buffer, alpha=group["momentum"], out=buffer)
    else:  # a gradient may have sums pending, which DTensor sees to
        buffer.mul_(group["momentum"]).add_(param.grad)
    return param.grad.add(buffer, alpha=group["momentum"]) if group["nesterov"] else buffer


def _stack(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0][None]  # one needs no copy


def _batches(params: list[Tensor]) -> Iterator[list[Tensor]]:
    """Those alike together, at most `BATCH_ELEMENTS` (or one parameter) at a time."""
    alike: dict[tuple, list[Tensor]] = {}
    for param in params:
        alike.setdefault((param.shape, param.dtype, param.device), []).append(param)
    for same in alike.values():
        most = BATCH_ELEMENTS.get(same[0].device.type, BATCH_ELEMENTS["cuda"])
        size = max(1, most // max(1, same[0].numel()))
        for start in range(0, len(same), size):
            yield same[start : start + size]
