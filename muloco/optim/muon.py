"""Muon's rule: momentum, orthogonalized. Ranks that hold the same matrices share the work."""

import math
from collections.abc import Callable, Generator, Iterable, MutableMapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor

from muloco.optim.decay import decay_
from muloco.optim.lookup import lookup
from muloco.optim.matrices import from_matrices, matrix_shape, to_matrices
from muloco.optim.orthogonalize import coefficients, exchange_dtypes, orthogonal_direction
from muloco.optim.owners import Batch, Matrix, Stack, batches, split
from muloco.optim.travel import from_owners, overlap, to_owners
from muloco.sharding import Axis, axes

__all__ = ["LR_SCALES", "muon_update"]

LR_SCALES: dict[str, Callable[[int, int], float]] = {
    "spectral_norm": lambda rows, cols: math.sqrt(rows / cols),
    "rms_norm": lambda rows, cols: 0.2 * math.sqrt(max(rows, cols)),
    "none": lambda rows, cols: 1.0,
}
"""What the learning rate of a `[rows, cols]` = `[fan_out, fan_in]` matrix is multiplied by, by name."""


def muon_update(
    groups: Iterable[tuple[list[Tensor], dict[str, Any]]],
    state: MutableMapping[Tensor, Any],
    process_group: ProcessGroup | None = None,
    symmetric_products: str = "auto",
) -> None:
    """One step, in place. See `muloco.optim.Muon`.

    Args:
        groups: of each parameter group, those of its parameters that have a gradient, and the group.
        state: `momentum_buffer` by parameter.
        process_group: ranks that hold copies of all plain parameters and have equal gradients; None: no other.
        symmetric_products: see `muloco.optim.Muon`.
    """
    copies = (Axis(process_group, None),) if process_group is not None and process_group.size() > 1 else ()
    matrices = [matrix for params, group in groups for param in params for matrix in _of(param, group, state, copies)]
    overlap(_update(batch, symmetric_products) for batch in batches(matrices))


def _of(
    param: Tensor, group: dict[str, Any], state: MutableMapping[Tensor, Any], copies: tuple[Axis, ...]
) -> Iterable[Matrix]:
    gradient, own = param.grad, state[param]
    assert gradient is not None
    if "momentum_buffer" not in own:
        own["momentum_buffer"] = torch.zeros_like(param)
    if param.numel() == 0:
        return ()
    if not isinstance(param, DTensor):
        return split(param, gradient, own["momentum_buffer"], group, copies)
    assert isinstance(gradient, DTensor)
    if gradient.placements != param.placements:  # as where sums are pending
        gradient = gradient.redistribute(param.device_mesh, param.placements)
    return split(param, gradient, own["momentum_buffer"], group, axes(param))


def _update(batch: Batch, symmetric_products: str) -> Generator[None, None, None]:
    matrices = [matrix for stack in batch.stacks for matrix in stack.matrices]
    for matrix in matrices:
        torch.add(matrix.gradient, matrix.momentum, alpha=matrix.group["momentum"], out=matrix.momentum)
    given, result = exchange_dtypes(matrices[0].param)
    stacks = yield from to_owners(batch, _look_ahead, given)
    by = _safe(symmetric_products, batch)
    directions = yield from from_owners(batch, [_direction(stack, whole, by) for stack, whole in stacks], result)
    for matrix, direction in zip(matrices, directions, strict=True):
        group = matrix.group
        lr = group["lr"] * group["lr_factor"]
        if isinstance(lr, Tensor):
            direction = direction * lr
        decay_(matrix.param, direction, lr * group["weight_decay"], cautious=group["cautious_weight_decay"])
        matrix.param.sub_(direction)


def _look_ahead(matrix: Matrix) -> Tensor:
    """The matrix to orthogonalize with the new momentum, up to a positive factor: the mean of gradient and momentum
    with weights 1 and `momentum`, which is finite where both are."""
    if not matrix.group["nesterov"]:
        return matrix.momentum
    weight = 1 / (1 + matrix.group["momentum"])
    return matrix.gradient.mul(weight).add_(matrix.momentum, alpha=1 - weight)


def _safe(symmetric_products: str, batch: Batch) -> str:
    """What is timed on each rank for itself may be chosen only where no two ranks can have the same matrix to compute:
    their copies of its parameter would drift apart."""
    sharing = math.prod(axis.size for axis in batch.axes)
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    return "matmul" if symmetric_products == "auto" and sharing < ranks else symmetric_products


def _direction(stack: Stack, whole: Tensor, symmetric_products: str) -> Tensor:
    """What is subtracted, but for a learning rate that is a tensor: reading it would wait for the device."""
    group = stack.matrices[0].group
    layout = group["layout"]
    scale = lookup(LR_SCALES, group["adjust_lr"], "adjust_lr")(*matrix_shape(stack.shape, layout))
    lr = group["lr"] * group["lr_factor"]
    triples = coefficients(group["orthogonalization"], group["steps"])
    factor = scale if isinstance(lr, Tensor) else lr * scale
    matrices = to_matrices(whole, layout)
    direction = orthogonal_direction(matrices, triples, factor, symmetric_products=symmetric_products)
    return from_matrices(direction, stack.shape)
