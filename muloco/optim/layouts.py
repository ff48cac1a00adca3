"""Tensors as matrices, by the `layout` of their group. Imports no torch."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Size, Tensor

LAYOUTS = {
    "stacked": "the last two dimensions are matrices, those before a batch of them, as of experts",
    "stacked_transposed": "the last two dimensions are matrices [in, out], those before a batch of them",
    "flatten": "the first dimension is the rows, the others together are the columns",
    "transposed": "a matrix [in, out], as transformers' Conv1D has",
}
"""Values of `layout`. A matrix [out, in] needs none; more than three dimensions without it are flattened, as in a
convolution [out, in, height, width]."""


def layout_of(dimensions: int) -> str | None:
    """Returns the layout of matrices of which only the number of dimensions is known: three are a stack."""
    return "stacked" if dimensions == 3 else None


def matrix_shape(shape: Sequence[int], layout: str | None) -> tuple[int, int]:
    """Returns (fan_out, fan_in) of the matrices that a parameter of `shape` consists of."""
    if _flattened(len(shape), layout):
        return shape[0], math.prod(shape[1:])
    return (shape[-1], shape[-2]) if transposed(layout) else (shape[-2], shape[-1])


def stack_dimensions(dimensions: int, layout: str | None) -> int:
    """Returns how many of the dimensions of a parameter, the first ones, number its matrices."""
    return dimensions - 2 if layout in ("stacked", "stacked_transposed") else 0


def transposed(layout: str | None) -> bool:
    """Returns whether matrices are stored as [in, out]."""
    return layout in ("transposed", "stacked_transposed")


def row_shape(shape: "Size", layout: str | None) -> "Size":
    """Returns the shape of a buffer with one number for each output (fan_out) of a matrix, to be broadcast to it."""
    outputs = len(shape) - 1 if transposed(layout) else 0 if _flattened(len(shape), layout) else len(shape) - 2
    return type(shape)(size if dim == outputs else 1 for dim, size in enumerate(shape))


def to_matrices(tensors: "Tensor", layout: str | None) -> "Tensor":
    """`[batch, *shape]` -> `[batch, ..., rows, cols]`. Transposed matrices stay as they are."""
    return tensors.flatten(2) if _flattened(tensors.ndim - 1, layout) else tensors


def _flattened(dimensions: int, layout: str | None) -> bool:
    return dimensions > 2 and layout in ("flatten", None)
