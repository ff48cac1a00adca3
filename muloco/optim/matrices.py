"""Tensors of more than two dimensions as matrices, in the way that their group's `layout` says."""

import math

import torch
from torch import Tensor

__all__ = ["LAYOUTS", "from_matrices", "matrix_shape", "to_matrices"]

LAYOUTS = {
    "stacked": "the last two dimensions are matrices, those before a batch of them",
    "flatten": "the first dimension is the rows, the others together are the columns",
}
"""What `layout` may be for a tensor of more than two dimensions; a matrix needs none."""


def matrix_shape(shape: torch.Size, layout: str | None) -> tuple[int, int]:
    """(rows, cols) of the matrices that a parameter of `shape` consists of."""
    if layout == "flatten":
        return shape[0], math.prod(shape[1:])
    return shape[-2], shape[-1]


def to_matrices(tensors: Tensor, layout: str | None) -> Tensor:
    """`[batch, *shape]` -> `[batch, ..., rows, cols]`."""
    return tensors.flatten(2) if layout == "flatten" else tensors


def from_matrices(matrices: Tensor, shape: torch.Size) -> Tensor:
    """`[batch, ..., rows, cols]` -> `[batch, *shape]`; the inverse of `to_matrices`."""
    return matrices.reshape(-1, *shape)
