"""Cosines, spectra and interference of pseudogradients, as functions of tensors. Needs torch alone.

A pseudogradient is the start of a window minus its end, as the outer step takes it. Everything is computed in float64.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

TOP = 0.05
"""Share of the singular values, the largest ones, that the interference gap is about."""


def cosine(left: Tensor, right: Tensor) -> float:
    """Returns the cosine of two tensors of equal shape, as vectors; NaN if one of them is zero."""
    left, right = left.double().flatten(), right.double().flatten()
    norms = (left.norm() * right.norm()).item()
    return torch.dot(left, right).item() / norms if norms else math.nan


def mean(tensors: Sequence[Tensor]) -> Tensor:
    """Returns the mean over workers, in float64."""
    return torch.stack([tensor.double() for tensor in tensors]).mean(0)


def singular_values(matrix: Tensor) -> Tensor:
    """Returns the r = min(rows, cols) singular values of `[rows, cols]`, float64, the largest first."""
    return torch.linalg.svdvals(matrix.double())


def orthonormal_factor(matrix: Tensor) -> Tensor:
    """U V^T of the singular value decomposition U S V^T of `[rows, cols]`: float64, all its r singular values are 1.

    Its inner product with the matrix is the nuclear norm, the sum of the singular values.
    """
    u, _, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u @ vt


def top_mean(values: Tensor) -> float:
    """Mean of the largest `TOP` of the singular values `[r]`, the largest first, rounded up to whole ones."""
    return values[: math.ceil(TOP * len(values))].mean().item()


def interference_gap(workers: float, averaged: float) -> float:
    """The drop from the workers' top singular values to those of their mean, as a share of the former: 0 if they agree,
    1 if they cancel. For K workers of rank one that share no singular vector it is 1 - 1 / K. The paper has published
    values, but no definition; this one is ours.

    Args:
        workers: `top_mean` of a worker's pseudogradient, the mean over the workers.
        averaged: `top_mean` of the mean pseudogradient.
    """
    return (workers - averaged) / workers if workers else math.nan
