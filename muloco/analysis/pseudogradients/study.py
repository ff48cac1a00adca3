"""The study of the pseudogradients from a checkpoint: figures by matrix and by number of workers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from torch import Tensor

from muloco.analysis.pseudogradients.collect import read_steps, read_tensors
from muloco.analysis.pseudogradients.measures import cosine, interference_gap, mean, singular_values, top_mean
from muloco.analysis.pseudogradients.proposition import Step, nuclear_norm

METHOD = {"Muon": "MuLoCo", "AdamW": "DiLoCo"}
"""The method of workers with an inner optimizer."""


@dataclass(frozen=True, kw_only=True)
class MatrixFigures:
    """The figures of one matrix with K workers."""

    workers: int
    matrix: str
    rank: int
    """r: the smaller side of the matrix."""
    cosine: float
    """Cosine of the mean pseudogradient to that of K = 1."""
    top_of_workers: float
    """Mean over workers of the mean of their top 5 % singular values."""
    top_of_mean: float
    """Mean of the top 5 % singular values of the mean pseudogradient."""
    gap: float
    """Interference gap: the former minus the latter, as a share of the former."""
    nuclear_norm: float
    """Nuclear norm of the mean pseudogradient: the left side of Proposition 4.2."""
    from_steps: float
    """The right side of Proposition 4.2 without the part of weight decay: sqrt(r) / K sum rho alpha |psi|_F."""
    from_decay: float
    """The part of weight decay in the right side of Proposition 4.2."""
    if_orthonormal: float
    """r / K sum rho alpha: what the right side is in the paper's form for Muon."""
    mean_rho: float
    mean_norm: float
    """Mean of |psi|_F / sqrt(r) over steps and workers."""
    least_norm: float
    greatest_norm: float
    spectrum_of_workers: Sequence[float]
    """Means of the singular values of the workers' pseudogradients, the largest first."""
    spectrum_of_mean: Sequence[float]
    """Singular values of the mean pseudogradient, the largest first."""

    @property
    def error(self) -> float:
        """Relative difference of the two sides of the proposition."""
        return abs(self.from_steps + self.from_decay - self.nuclear_norm) / self.nuclear_norm


@dataclass(frozen=True, kw_only=True)
class Study:
    """The results for one checkpoint."""

    run: str
    """Name of the run and step of the checkpoint."""
    optimizer: str
    steps: int
    """Number of inner steps of each worker, H."""
    matrices: Sequence[MatrixFigures]
    measured: Mapping[int, Mapping[str, Sequence[Step]]]
    """Inner steps by K and matrix."""

    @property
    def counts(self) -> list[int]:
        """The K studied, in ascending order."""
        return sorted(self.measured)

    def of(self, workers: int) -> list[MatrixFigures]:
        return [figures for figures in self.matrices if figures.workers == workers]

    def norms(self, workers: int) -> list[float]:
        """|psi|_F / sqrt(r) of each inner step from the first on, means over matrices and workers."""
        ranks = {figures.matrix: figures.rank for figures in self.of(workers)}
        by_step: list[list[float]] = [[] for _ in range(self.steps)]
        for matrix, steps in self.measured[workers].items():
            for step in steps:
                by_step[step.step - 1].append(step.norm / math.sqrt(ranks[matrix]))
        return list(map(fmean, by_step))


def study(folder: Path, counts: Sequence[int], *, run: str, optimizer: str, steps: int) -> Study:
    """Computes a study from what `collect` has written into a folder.

    Args:
        folder: with the files of each K.
        counts: the K; 1 is among them.
        run, optimizer, steps: see `Study`.
    """
    single = {name: tensors[0] for name, tensors in read_tensors(folder, 1).items()}
    measured = {workers: read_steps(folder, workers) for workers in counts}
    matrices = [
        _matrix(name, tensors, single[name], measured[workers][name])
        for workers in counts
        for name, tensors in read_tensors(folder, workers).items()
    ]
    return Study(run=run, optimizer=optimizer, steps=steps, matrices=matrices, measured=measured)


def _matrix(name: str, tensors: Sequence[Tensor], single: Tensor, steps: Sequence[Step]) -> MatrixFigures:
    averaged = mean(tensors)
    own = [singular_values(tensor) for tensor in tensors]
    of_mean = singular_values(averaged)
    workers, rank = len(tensors), len(of_mean)
    top_of_workers, top_of_mean = sum(map(top_mean, own)) / workers, top_mean(of_mean)
    from_steps, from_decay, if_orthonormal = nuclear_norm(steps, workers=workers, rank=rank)
    norms = [step.norm / math.sqrt(rank) for step in steps]
    return MatrixFigures(
        workers=workers,
        matrix=name,
        rank=rank,
        cosine=cosine(averaged, single),
        top_of_workers=top_of_workers,
        top_of_mean=top_of_mean,
        gap=interference_gap(top_of_workers, top_of_mean),
        nuclear_norm=of_mean.sum().item(),
        from_steps=from_steps,
        from_decay=from_decay,
        if_orthonormal=if_orthonormal,
        mean_rho=fmean(step.rho for step in steps),
        mean_norm=fmean(norms),
        least_norm=min(norms),
        greatest_norm=max(norms),
        spectrum_of_workers=mean(own).tolist(),
        spectrum_of_mean=of_mean.tolist(),
    )
