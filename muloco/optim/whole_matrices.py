"""The step of rules that need whole matrices. Ranks that hold the same matrices share the work.

Each rank advances the momentum of its parts of the matrices. The parts are sent to the owner of a matrix, which
computes the rule's direction for the whole and sends each rank its part, with which that rank steps its parameters.
"""

import math
from collections.abc import Generator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor, Replicate

from muloco.optim.all_to_all import from_owners, overlap, to_owners
from muloco.optim.fused import parts, put, take
from muloco.optim.layouts import matrix_shape, row_shape, stack_dimensions, to_matrices, transposed
from muloco.optim.newton_schulz import exchange_dtypes
from muloco.optim.owners import Batch, Plan, Stack
from muloco.optim.passes import advance, descend, host_sees
from muloco.optim.rule import lookup
from muloco.optim.rules import RULES
from muloco.optim.rules.muon import LR_SCALES
from muloco.sharding import Axis, local


class Direction(Protocol):
    """Computes the direction of matrices from their momentum, on the rank that owns them."""

    def __call__(
        self, momenta: Tensor, group: dict[str, Any], scale: float, rows: Mapping[str, Tensor], symmetric_products: str
    ) -> Tensor:
        """Returns what is subtracted from the matrices, of the shape of `momenta` and in the dtype of products.

        Args:
            momenta: `[matrices, ..., rows, cols]`, which may be overwritten. With `nesterov`, one step ahead.
            group: the parameter group, with the rule's options.
            scale: factor on the result.
            rows: the buffers that have one number a row (a neuron, also where the layout is transposed) by name, with
                as many dimensions as `momenta`, to be updated in place.
            symmetric_products: see `muloco.optim.Muon`.
        """
        ...


def step_whole_matrices(
    groups: Sequence[tuple[list[Tensor], dict[str, Any]]],
    state: MutableMapping[Tensor, Any],
    plan: Plan,
    process_group: ProcessGroup | None = None,
    symmetric_products: str = "auto",
) -> None:
    """Takes one step, in place.

    Args:
        groups: for each parameter group, its parameters that have a gradient, and the group.
        state: by parameter; missing buffers are added.
        plan: the plan of the optimizer, which is kept from step to step.
        process_group: ranks that hold copies of all plain parameters and have equal gradients; None: no other rank.
        symmetric_products: see `muloco.optim.Muon`.
    """
    copies = (Axis(process_group, None),) if process_group is not None and process_group.size() > 1 else ()
    gradients: dict[Tensor, Tensor] = {}
    buffers: dict[Tensor, dict[str, Tensor]] = {}
    for params, group in groups:
        for param in params:
            for name, per in RULES[group["algorithm"]].state.items():
                if name not in state[param]:
                    state[param][name] = torch.zeros_like(param) if per == "element" else _zero_rows(param, group)
                buffers.setdefault(param, {})[name] = local(state[param][name])
            gradients[param] = _gradient(param)
    overlap(_update(batch, gradients, buffers, symmetric_products) for batch in plan.batches(groups, copies))


def _gradient(param: Tensor) -> Tensor:
    """Returns this rank's part of the gradient, sharded as the parameter is."""
    gradient = param.grad
    assert gradient is not None
    if isinstance(param, DTensor):
        assert isinstance(gradient, DTensor)
        if gradient.placements != param.placements:  # for example where sums are pending
            gradient = gradient.redistribute(param.device_mesh, param.placements)
    return local(gradient)


def _zero_rows(param: Tensor, group: dict[str, Any]) -> Tensor:
    """A number for each row of the matrices of a parameter, on every rank that has parts of the matrix: they are few,
    and the owner of the matrix, which may change, needs all of them."""
    leading = stack_dimensions(param.ndim, group["layout"])
    rows = row_shape(param.shape[leading:], group["layout"])
    part = local(param).new_zeros(*local(param).shape[:leading], *rows)
    if not isinstance(param, DTensor):
        return part
    whole = torch.empty(*param.shape[:leading], *rows, device="meta")
    placements = [
        placement if getattr(placement, "dim", leading) < leading else Replicate() for placement in param.placements
    ]
    return DTensor.from_local(
        part, param.device_mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def _update(
    batch: Batch, gradients: dict[Tensor, Tensor], buffers: dict[Tensor, dict[str, Tensor]], symmetric_products: str
) -> Generator[None, None, None]:
    given, result = exchange_dtypes(batch.stacks[0].matrices[0].param)
    by = _safe(symmetric_products, batch)

    wanted = {}
    for stack in batch.stacks:
        group = stack.matrices[0].group
        momenta = [matrix.part(buffers[matrix.param]["momentum_buffer"]) for matrix in stack.matrices]
        if batch.wants(stack):
            wanted[stack] = momenta[0].new_empty(len(momenta), *momenta[0].shape, dtype=given)
        advance(
            [matrix.part(gradients[matrix.param]) for matrix in stack.matrices],
            momenta,
            group["momentum"],
            nesterov=group["nesterov"],
            parts=wanted.get(stack),
        )
    owned = yield from to_owners(batch, wanted, given)
    rows = {
        stack: {
            name: torch.stack([matrix.part(buffers[matrix.param][name]) for matrix in stack.matrices])
            for name in _row_buffers(stack)
        }
        for stack, _ in owned
    }
    computed = [_direction(stack, whole, rows[stack], by) for stack, whole in owned]
    directions = iter((yield from from_owners(batch, computed, result)))
    yield from _share_rows(batch, rows, buffers)
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


def _direction(stack: Stack, whole: Tensor, rows: Mapping[str, Tensor], symmetric_products: str) -> Tensor:
    """Returns the step, without the learning rate if that is a tensor, as reading it would wait for the device."""
    group = stack.matrices[0].group
    layout = group["layout"]
    outputs, inputs = matrix_shape(stack.shape, layout)
    lr = _lr(group)
    compute = RULES[group["algorithm"]].direction
    assert compute is not None

    def computed(matrices: Tensor, fan_out: int, buffers: dict[str, Tensor]) -> Tensor:
        scale = lookup(LR_SCALES, group["adjust_lr"], "adjust_lr")(fan_out, inputs)
        return compute(matrices, group, scale if isinstance(lr, Tensor) else lr * scale, buffers, symmetric_products)

    matrices = to_matrices(whole, layout)
    buffers = {name: to_matrices(buffer, layout) for name, buffer in rows.items()}
    held = parts(outputs, group.get("split"), group.get("per_head"))
    if len(held) == held[0].heads == 1:
        return computed(matrices, outputs, buffers).reshape(-1, *stack.shape)
    if transposed(layout):
        matrices, buffers = matrices.mT, {name: buffer.mT for name, buffer in buffers.items()}
    direction = torch.empty_like(matrices, dtype=exchange_dtypes(whole)[1])
    for part in held:
        own = {name: take(buffer, part) for name, buffer in buffers.items()}
        put(direction, part, computed(take(matrices, part), part.rows, own))
        for name, buffer in own.items():
            put(buffers[name], part, buffer)
    return (direction.mT if transposed(layout) else direction).reshape(-1, *stack.shape)


def _row_buffers(stack: Stack) -> list[str]:
    rule = RULES[stack.matrices[0].group["algorithm"]]
    return [name for name, per in rule.state.items() if per == "row"]


def _share_rows(
    batch: Batch, owned: dict[Stack, dict[str, Tensor]], buffers: dict[Tensor, dict[str, Tensor]]
) -> Generator[None, None, None]:
    """Brings the row buffers that owners have updated into `buffers`, this rank's parts of the state, on every rank
    that has parts of their matrices. `owned` has the buffers of each stack that this rank owns, `[matrices,
    *shape]`."""
    for name in sorted({name for stack in batch.stacks for name in _row_buffers(stack)}):
        stacks = [stack for stack in batch.stacks if name in _row_buffers(stack)]
        whole = Batch(
            axes=tuple(replace(axis, dim=None) for axis in batch.axes),  # each rank gets all of it
            device=batch.device,
            stacks=[_of_rows(stack) for stack in stacks],
        )
        updated = [rows[name] for rows in owned.values() if name in rows]
        dtype = stacks[0].matrices[0].param.dtype
        received = yield from from_owners(whole, updated, dtype)
        for matrix, value in zip([matrix for stack in stacks for matrix in stack.matrices], received, strict=True):
            matrix.part(buffers[matrix.param][name]).copy_(value)


def _of_rows(stack: Stack) -> Stack:
    """The stack with the shape that a row buffer has for each of its matrices."""
    layout = stack.matrices[0].group["layout"]
    matrices = [replace(matrix, shape=row_shape(matrix.shape, layout)) for matrix in stack.matrices]
    return Stack(matrices, stack.owner)


def _lr(group: dict[str, Any]) -> float | Tensor:
    lr = group["lr"] * group["lr_factor"]
    return lr.item() if isinstance(lr, Tensor) and host_sees(lr) else lr
