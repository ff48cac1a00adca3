"""Muon's rule: momentum, orthogonalized. Ranks that hold the same matrices share the work."""

import math
from collections.abc import Callable, Generator, MutableMapping, Sequence
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor

from muloco.optim.all_to_all import from_owners, overlap, to_owners
from muloco.optim.lookup import lookup
from muloco.optim.matrices import from_matrices, matrix_shape, to_matrices
from muloco.optim.orthogonalize import coefficients, exchange_dtypes, orthogonal_direction
from muloco.optim.owners import Batch, Plan, Stack
from muloco.optim.passes import advance, descend, host_sees
from muloco.sharding import Axis, local

__all__ = ["LR_SCALES", "muon_update"]

LR_SCALES: dict[str, Callable[[int, int], float]] = {
    "spectral_norm": lambda rows, cols: math.sqrt(rows / cols),
    "rms_norm": lambda rows, cols: 0.2 * math.sqrt(max(rows, cols)),
    "none": lambda rows, cols: 1.0,
}
"""What the learning rate of a `[rows, cols]` = `[fan_out, fan_in]` matrix is multiplied by, by name."""


def muon_update(
    groups: Sequence[tuple[list[Tensor], dict[str, Any]]],
    state: MutableMapping[Tensor, Any],
    plan: Plan,
    process_group: ProcessGroup | None = None,
    symmetric_products: str = "auto",
) -> None:
    """Takes one step, in place. See `muloco.optim.Muon`.

    Args:
        groups: for each parameter group, its parameters that have a gradient, and the group.
        state: `momentum_buffer` by parameter.
        plan: the plan of the optimizer, which is kept from step to step.
        process_group: ranks that hold copies of all plain parameters and have equal gradients; None: no other rank.
        symmetric_products: see `muloco.optim.Muon`.
    """
    copies = (Axis(process_group, None),) if process_group is not None and process_group.size() > 1 else ()
    params = [param for params, _ in groups for param in params]
    for param in params:
        if "momentum_buffer" not in state[param]:
            state[param]["momentum_buffer"] = torch.zeros_like(param)
    gradients = {param: _gradient(param) for param in params}
    momenta = {param: local(state[param]["momentum_buffer"]) for param in params}
    overlap(_update(batch, gradients, momenta, symmetric_products) for batch in plan.batches(groups, copies))


def _gradient(param: Tensor) -> Tensor:
    """Returns this rank's part of the gradient, sharded as the parameter is."""
    gradient = param.grad
    assert gradient is not None
    if isinstance(param, DTensor):
        assert isinstance(gradient, DTensor)
        if gradient.placements != param.placements:  # for example where sums are pending
            gradient = gradient.redistribute(param.device_mesh, param.placements)
    return local(gradient)


def _update(
    batch: Batch, gradients: dict[Tensor, Tensor], momenta: dict[Tensor, Tensor], symmetric_products: str
) -> Generator[None, None, None]:
    given, result = exchange_dtypes(batch.stacks[0].matrices[0].param)
    by = _safe(symmetric_products, batch)

    wanted = {}
    for stack in batch.stacks:
        group = stack.matrices[0].group
        own = [matrix.part(momenta[matrix.param]) for matrix in stack.matrices]
        if batch.wants(stack):
            wanted[stack] = own[0].new_empty(len(own), *own[0].shape, dtype=given)
        advance(
            [matrix.part(gradients[matrix.param]) for matrix in stack.matrices],
            own,
            group["momentum"],
            nesterov=group["nesterov"],
            parts=wanted.get(stack),
        )
    stacks = yield from to_owners(batch, wanted, given)
    found = yield from from_owners(batch, [_direction(stack, whole, by) for stack, whole in stacks], result)
    directions = iter(found)
    for stack in batch.stacks:
        group = stack.matrices[0].group
        descend(
            [matrix.part(matrix.param) for matrix in stack.matrices],
            list(islice(directions, len(stack.matrices))),
            _lr(group),
            group["weight_decay"],
            cautious=group["cautious_weight_decay"],
        )


def _safe(symmetric_products: str, batch: Batch) -> str:
    """Returns `symmetric_products`, or `matmul` in place of `auto` if several ranks may compute the same matrix. Each
    rank times `auto` by itself, and different choices would make the copies of a parameter differ."""
    sharing = math.prod(axis.size for axis in batch.axes)
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    return "matmul" if symmetric_products == "auto" and sharing < ranks else symmetric_products


def _direction(stack: Stack, whole: Tensor, symmetric_products: str) -> Tensor:
    """What is subtracted, but for a learning rate that is a tensor: reading it would wait for the device."""
    group = stack.matrices[0].group
    layout = group["layout"]
    scale = lookup(LR_SCALES, group["adjust_lr"], "adjust_lr")(*matrix_shape(stack.shape, layout))
    lr = _lr(group)
    triples = coefficients(group["orthogonalization"], group["steps"])
    factor = scale if isinstance(lr, Tensor) else lr * scale
    direction = orthogonal_direction(
        to_matrices(whole, layout), triples, factor, overwrite=True, symmetric_products=symmetric_products
    )
    return from_matrices(direction, stack.shape)


def _lr(group: dict[str, Any]) -> float | Tensor:
    lr = group["lr"] * group["lr_factor"]
    return lr.item() if isinstance(lr, Tensor) and host_sees(lr) else lr
