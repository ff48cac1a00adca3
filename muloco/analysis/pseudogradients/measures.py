"""Cosines, spectra and interference of pseudogradients, as functions of tensors. Needs torch alone.

A pseudogradient is the start of a window minus its end, as the outer step takes it. Everything is computed in float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TOP = 0.05
"""Share of the singular values, the largest ones, that the interference gap is about."""


@dataclass(frozen=True)
class Box:
    """Mean and quartiles of pooled values."""

    mean: float
    lower: float
    median: float
    upper: float


def box(values: Sequence[float]) -> Box:
    """Returns the box of at least one value; quartiles are interpolated."""
    pooled = torch.tensor(values, dtype=torch.float64)
    lower, median, upper = torch.quantile(pooled, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    return Box(mean=pooled.mean().item(), lower=lower, median=median, upper=upper)


def cosine(one: Tensor, other: Tensor) -> float:
    """Returns the cosine of two tensors of equal shape, as vectors; NaN if one of them is zero."""
    one, other = one.double().flatten(), other.double().flatten()
    norms = (one.norm() * other.norm()).item()
    return torch.dot(one, other).item() / norms if norms else math.nan


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


def top_mean(values: Tensor, share: float = TOP) -> float:
    """Mean of the largest `share` of the singular values, rounded up to whole ones.

    Args:
        values: `[r]`, the largest first.
    """
    return values[: math.ceil(share * len(values))].mean().item()


@dataclass(frozen=True)
class Gap:
    """Interference gap of one matrix."""

    workers: float
    """Mean over the workers of the mean of their top singular values."""
    averaged: float
    """Mean of the top singular values of the mean pseudogradient."""

    @property
    def absolute(self) -> float:
        """The part of the top of the spectrum that averaging removes, in units of the parameters."""
        return self.workers - self.averaged

    @property
    def relative(self) -> float:
        """The same as a share of the workers' own: 0 where they agree, 1 where they cancel. Of K workers of rank one
        that share no singular vector it is 1 - 1 / K."""
        return self.absolute / self.workers if self.workers else math.nan


def interference_gap(workers: Sequence[Tensor], averaged: Tensor, share: float = TOP) -> Gap:
    """The drop from the workers' top singular values to those of their mean. The paper has published values, but no
    definition; this one is ours.

    Args:
        workers: singular values `[r]` of each worker's pseudogradient, the largest first.
        averaged: of the mean of the pseudogradients.
        share: of the singular values that count as the top.
    """
    own = [top_mean(values, share) for values in workers]
    return Gap(workers=sum(own) / len(own), averaged=top_mean(averaged, share))
