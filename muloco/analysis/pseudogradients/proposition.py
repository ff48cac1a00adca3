"""Proposition 4.2: the nuclear norm of a mean pseudogradient from the inner steps behind it. Needs torch alone.

A worker's step moves a matrix X by X <- X - alpha psi - decay: psi the direction that the inner optimizer takes, alpha
its learning rate times all factors (lr_factor, Muon's `adjust_lr`), decay = lr lambda X. With the mean pseudogradient
Psi = U S V^T of K workers, of r = min(rows, cols) singular values, and Q = U V^T, whose Frobenius norm is sqrt(r),

    |Psi|_* = <Psi, Q> = sqrt(r) / K  sum rho alpha |psi|_F  +  1 / K  sum <decay, Q>        over workers and steps

where rho is the cosine between psi and Q. That is exact for any inner optimizer. The paper's form for Muon,
r / K sum rho alpha, holds where psi is orthonormal, |psi|_F = sqrt(r), and nothing decays.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Step:
    """One inner step of one worker on one matrix, seen from the mean pseudogradient."""

    worker: int
    step: int
    """Number of the step within the window, from 1."""
    alpha: float
    norm: float
    """Frobenius norm of psi, |psi|_F."""
    rho: float
    """Cosine between psi and U V^T of the mean pseudogradient; 0 where psi is 0."""
    decay: float
    """Inner product of the decay with U V^T."""


def measure_step(
    before: Tensor,
    after: Tensor,
    factor: Tensor,
    *,
    alpha: float,
    decay_rate: float,
    cautious: bool,
    worker: int,
    step: int,
) -> Step:
    """Takes a step apart.

    psi is what the step has moved, decay left out, over alpha: precise to the rounding of the parameters, about 1e-5.

    Args:
        before, after: the matrix, `[rows, cols]`.
        factor: U V^T of the mean pseudogradient, float64.
        alpha: learning rate of psi, with all its factors.
        decay_rate: lr times lambda.
        cautious: only what the step does not move away from zero has decayed (`muloco.optim.passes.decay_`).
        worker, step: numbers of the worker and of its step.
    """
    moved = before.double() - after.double()
    decay = decay_rate * before.double()
    if cautious:
        decay = decay * (before.sign() * moved.sign() >= 0)
    psi = (moved - decay) / alpha
    norm = psi.norm().item()
    rho = (psi * factor).sum().item() / (norm * math.sqrt(min(psi.shape))) if norm else 0.0
    return Step(worker=worker, step=step, alpha=alpha, norm=norm, rho=rho, decay=(decay * factor).sum().item())


def nuclear_norm(steps: Sequence[Step], *, workers: int, rank: int) -> tuple[float, float, float]:
    """The right side of the proposition, for one matrix.

    Args:
        steps: all of all workers.
        workers: K.
        rank: r, the smaller side of the matrix.

    Returns:
        sqrt(r) / K sum rho alpha |psi|_F; 1 / K sum <decay, U V^T>; and r / K sum rho alpha, which the paper's form for
        Muon has in place of the first.
    """
    by_steps = math.sqrt(rank) / workers * sum(step.rho * step.alpha * step.norm for step in steps)
    by_decay = sum(step.decay for step in steps) / workers
    return by_steps, by_decay, rank / workers * sum(step.rho * step.alpha for step in steps)
