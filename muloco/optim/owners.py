"""Decides which rank orthogonalizes which matrix, so that each matrix has one owner among the ranks that hold it."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from muloco.optim.fused import parts
from muloco.optim.layouts import matrix_shape, stack_dimensions
from muloco.sharding import Axis, axes, local

BATCH_ELEMENTS = {"cpu": 2**19, "cuda": 2**24}
"""Matrices of one shape are orthogonalized together, up to so many elements, by device: more leave a CPU's caches,
fewer leave cores idle when the matrices are small. The value for a GPU is not measured."""

EXCHANGE_BYTES = 2**23
"""Matrices are sent together until each owner has about so many bytes of parameters. Fewer bytes cost more messages;
more bytes leave less to compute in the meantime. Between 2 and 64 MiB it made no difference on a CPU; on a GPU it is
not measured."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix to orthogonalize: a parameter, or one of the matrices of a stacked parameter. Gradient and state are not
    part of it, as they may be different tensors at every step."""

    param: Tensor
    """The parameter, plain or a DTensor."""
    index: tuple[int, ...]
    """Index of the matrix in this rank's part of a stacked parameter; empty for other parameters."""
    shape: torch.Size
    """Shape of the whole matrix: `[rows, cols]`, or that of a parameter which is flattened to a matrix."""
    axes: tuple[Axis, ...]
    """The axes along which it is spread over the ranks, see `muloco.sharding.axes`."""
    group: dict[str, Any]
    """The parameter group, with the options."""

    def part(self, tensor: Tensor) -> Tensor:
        """Returns this rank's part of the matrix in `tensor`, which is the parameter, its gradient or its momentum: a
        plain tensor that shares memory with it."""
        return local(tensor)[self.index] if self.index else local(tensor)


@dataclass(frozen=True, eq=False)
class Stack:
    """Matrices of one shape, group and owner."""

    matrices: list[Matrix]
    owner: tuple[int, ...]
    """Rank of the one that orthogonalizes them, on each of their axes."""

    @property
    def shape(self) -> torch.Size:
        """Shape of one whole matrix of the stack."""
        return self.matrices[0].shape


@dataclass(frozen=True, eq=False)
class Batch:
    """Stacks that are exchanged together."""

    axes: tuple[Axis, ...]
    device: torch.device
    stacks: list[Stack]
    """On these axes and this device, of one dtype, in the same order on every rank."""

    def wants(self, stack: Stack) -> bool:
        """Whether the owner uses this rank's part of the stack. Of several equal copies it uses one."""
        return all(stack.owner[i] == axis.rank for i, axis in enumerate(self.axes) if axis.dim is None)


class Plan:
    """The batches of the parameters that have a gradient. Finding them takes milliseconds, so they are kept for the
    next step, and found again when other parameters have a gradient."""

    def __init__(self) -> None:
        self._key: list[Any] = []
        self._groups: Sequence[tuple[list[Tensor], dict[str, Any]]] = []
        self._batches: list[Batch] = []

    def batches(self, groups: Sequence[tuple[list[Tensor], dict[str, Any]]], copies: tuple[Axis, ...]) -> list[Batch]:
        """Returns the batches, in the same order on all ranks.

        Args:
            groups: for each parameter group, its parameters that have a gradient, and the group.
            copies: the axes of plain parameters, which every rank on them holds a copy of.
        """
        # The key has ids of the groups. The groups are kept with it, so that no other object gets one of these ids.
        key: list[Any] = [BATCH_ELEMENTS.copy(), EXCHANGE_BYTES, copies]
        for params, group in groups:
            key.append((id(group), group["layout"], group.get("split"), group.get("per_head")))
            key += [(id(param), param.dtype, param.device) for param in params]
        if key != self._key:
            self._batches = list(batches(matrix for params, group in groups for matrix in split(params, group, copies)))
            self._key, self._groups = key, groups
        return self._batches


def split(params: Iterable[Tensor], group: dict[str, Any], copies: tuple[Axis, ...]) -> Iterator[Matrix]:
    """Yields the matrices of a group of which this rank has parts. `copies` are the axes of plain parameters."""
    for param in params:
        if param.numel() == 0:
            continue
        leading = stack_dimensions(param.ndim, group["layout"])
        # Ranks on an axis that divides the leading dimensions hold different matrices.
        matrix_axes = tuple(
            Axis(axis.group, None if axis.dim is None else axis.dim - leading)
            for axis in (axes(param) if isinstance(param, DTensor) else copies)
            if axis.dim is None or axis.dim >= leading
        )
        for index in product(*map(range, local(param).shape[:leading])):
            yield Matrix(param, index, param.shape[leading:], matrix_axes, group)


def batches(matrices: Iterable[Matrix]) -> Iterator[Batch]:
    """Gives every matrix an owner, such that all have about as many FLOPs to do, and forms batches of matrices that are
    sent together. Ranks that share matrices come to the same owners and the same order."""
    alike: dict[tuple, list[Matrix]] = {}
    for matrix in matrices:
        alike.setdefault((matrix.axes, matrix.param.dtype, matrix.param.device), []).append(matrix)
    for (places, dtype, device), members in alike.items():
        numbered: dict[int, list[Stack]] = {}
        ranks = product(*(range(axis.size) for axis in places))
        for owner, owned in zip(ranks, _balance(members, places), strict=True):
            assigned = 0
            for stack in _stacks(owned, owner):
                # Stacks that are not sent are batches of their own, which wait for no others.
                number = assigned // EXCHANGE_BYTES if places else len(numbered)
                numbered.setdefault(number, []).append(stack)
                assigned += len(stack.matrices) * stack.shape.numel() * dtype.itemsize
        yield from (Batch(places, device, numbered[number]) for number in sorted(numbered))


def _balance(matrices: list[Matrix], places: tuple[Axis, ...]) -> list[list[Matrix]]:
    """Assigns matrices to ranks greedily: the costliest first, each to the rank with the least load so far."""
    assigned: list[list[Matrix]] = [[] for _ in range(math.prod(axis.size for axis in places))]
    loads = [0] * len(assigned)
    for matrix in sorted(matrices, key=_cost, reverse=True):
        least = loads.index(min(loads))
        assigned[least].append(matrix)
        loads[least] += _cost(matrix)
    return assigned


def _cost(matrix: Matrix) -> int:
    """FLOPs of a matrix, up to a factor; of a fused projection, those of the matrices in it."""
    outputs, inputs = matrix_shape(matrix.shape, matrix.group["layout"])
    cost = 0
    for part in parts(outputs, matrix.group.get("split"), matrix.group.get("per_head")):
        small, large = sorted((part.rows, inputs))
        cost += part.heads * (4 * small * small * large + 2 * small**3)
    return cost


def _stacks(matrices: list[Matrix], owner: tuple[int, ...]) -> Iterator[Stack]:
    """Stacks equal matrices together, at most `BATCH_ELEMENTS` (or one matrix) at a time."""
    alike: dict[tuple, list[Matrix]] = {}
    for matrix in matrices:
        alike.setdefault((id(matrix.group), matrix.shape), []).append(matrix)
    for same in alike.values():
        most = BATCH_ELEMENTS.get(same[0].param.device.type, BATCH_ELEMENTS["cuda"])
        size = max(1, most // max(1, same[0].shape.numel()))
        for start in range(0, len(same), size):
            yield Stack(same[start : start + size], owner)
