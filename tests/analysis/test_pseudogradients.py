"""Cosine, spectra, interference gap and Proposition 4.2 against closed forms; steps against the optimizers' rules."""

import math

import pytest
import torch

from muloco.analysis.pseudogradients.collect import learning_rate
from muloco.analysis.pseudogradients.measures import (
    cosine,
    interference_gap,
    mean,
    orthonormal_factor,
    singular_values,
    top_mean,
)
from muloco.analysis.pseudogradients.proposition import Step, measure_step, nuclear_norm
from muloco.optim import Muon, orthogonalize


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthonormal(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(random(rows, cols, seed=seed).double())[0]


def gap(*tensors: torch.Tensor) -> float:
    tops = [top_mean(singular_values(tensor)) for tensor in tensors]
    return interference_gap(sum(tops) / len(tops), top_mean(singular_values(mean(tensors))))


def test_cosine() -> None:
    one = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert cosine(one, 2 * one) == pytest.approx(1)
    assert cosine(one, -one) == pytest.approx(-1)
    assert cosine(one, torch.tensor([[0.0, 1.0], [1.0, 0.0]])) == 0
    assert cosine(one, torch.tensor([[1.0, 0.0], [0.0, 0.0]])) == pytest.approx(0.6)
    assert math.isnan(cosine(one, torch.zeros(2, 2)))


def test_top_is_rounded_up() -> None:
    values = torch.arange(30.0, 0.0, -1.0).double()
    assert top_mean(values) == 29.5  # two of thirty
    assert top_mean(values[:20]) == 30  # one of twenty


def test_gap_of_identical_opposite_and_orthogonal_workers() -> None:
    one = random(40, 60)
    assert gap(one, one, one) == pytest.approx(0, abs=1e-12)
    assert gap(one, -one) == pytest.approx(1)
    assert gap(one, -one / 2) == pytest.approx(1 - 0.25 / 0.75)
    for workers in (2, 4, 8):
        left, right = orthonormal(20, workers), orthonormal(30, workers, seed=1)
        apart = [torch.outer(left[:, k], right[:, k]) for k in range(workers)]
        assert gap(*apart) == pytest.approx(1 - 1 / workers)
        one_sided = [torch.outer(left[:, k], right[:, 0]) for k in range(workers)]
        assert gap(*one_sided) == pytest.approx(1 - 1 / math.sqrt(workers))


@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_orthonormal_factor(shape: tuple[int, int]) -> None:
    matrix = random(*shape)
    factor = orthonormal_factor(matrix)
    torch.testing.assert_close(singular_values(factor), torch.ones(6, dtype=torch.float64))
    assert (factor * matrix).sum().item() == pytest.approx(torch.linalg.matrix_norm(matrix.double(), "nuc").item())


@pytest.mark.parametrize("shape", [(8, 12), (12, 8), (7, 7)])
@pytest.mark.parametrize("cautious", [False, True])
def test_both_sides_of_the_proposition(shape: tuple[int, int], cautious: bool) -> None:
    """On workers that step as they like, with decay and learning rates that change from step to step."""
    workers, count, decay_rate = 3, 5, 0.02
    paths = []
    for worker in range(workers):
        path = [random(*shape, seed=99).double()]
        for step in range(count):
            psi = random(*shape, seed=10 * worker + step).double()
            here = path[-1]
            decaying = here * (here * psi >= 0) if cautious else here
            path.append(here - 0.1 * (step + 1) * psi - decay_rate * decaying)
        paths.append(path)
    averaged = mean([path[0] - path[-1] for path in paths])
    factor = orthonormal_factor(averaged)
    steps = [
        measure_step(
            path[step],
            path[step + 1],
            factor,
            alpha=0.1 * (step + 1),
            decay_rate=decay_rate,
            cautious=cautious,
            worker=worker,
            step=step + 1,
        )
        for worker, path in enumerate(paths)
        for step in range(count)
    ]
    for taken in steps:
        assert taken.norm == pytest.approx(random(*shape, seed=10 * taken.worker + taken.step - 1).norm().item())
    by_steps, by_decay, if_orthonormal = nuclear_norm(steps, workers=workers, rank=min(shape))
    assert by_steps + by_decay == pytest.approx(torch.linalg.matrix_norm(averaged, "nuc").item(), rel=1e-12)
    assert abs(by_decay) > 1e-3 * by_steps
    assert if_orthonormal != pytest.approx(by_steps, rel=1e-3)  # these steps are not


def test_orthonormal_steps_make_the_papers_form() -> None:
    """Where every step is the same orthonormal matrix, rho is 1 and both forms are r times the learning rates."""
    psi = orthonormal(9, 5)
    steps = [
        measure_step(0 * psi, -0.3 * psi, psi, alpha=0.3, decay_rate=0.0, cautious=False, worker=worker, step=1)
        for worker in range(2)
    ]
    assert all(step.rho == pytest.approx(1) and step.norm == pytest.approx(math.sqrt(5)) for step in steps)
    assert nuclear_norm(steps, workers=2, rank=5) == (pytest.approx(1.5), 0, pytest.approx(1.5))


def test_a_step_that_does_not_move() -> None:
    still = torch.zeros(3, 4)
    step = measure_step(
        still, still, orthonormal_factor(random(3, 4)), alpha=0.1, decay_rate=0.1, cautious=False, worker=0, step=1
    )
    assert step == Step(worker=0, step=1, alpha=0.1, norm=0, rho=0, decay=0)


@pytest.mark.parametrize("algorithm", ["muon", "adamw"])
def test_the_direction_is_the_optimizers_own(algorithm: str) -> None:
    """psi against Newton-Schulz of the momentum, or Adam's first step: the signs of the gradient."""
    matrix = torch.nn.Parameter(random(6, 24))
    matrix.grad = random(6, 24, seed=1)
    group = {"params": [matrix], "algorithm": algorithm, "lr_factor": 0.5, "weight_decay": 0.3}
    optimizer = Muon([group], lr=0.1)
    before, gradient = matrix.detach().clone(), matrix.grad.clone()
    optimizer.step()
    alpha = learning_rate(optimizer.param_groups[0], matrix.shape)
    assert alpha == pytest.approx(0.05 * (0.5 if algorithm == "muon" else 1))
    psi = orthogonalize(gradient, dtype=torch.float32) if algorithm == "muon" else gradient.sign()
    factor = orthonormal_factor(random(6, 24, seed=2))
    step = measure_step(
        before, matrix.detach(), factor, alpha=alpha, decay_rate=0.05 * 0.3, cautious=False, worker=0, step=1
    )
    # bf16 where the hardware multiplies it fast
    assert step.norm == pytest.approx(psi.norm().item(), rel=1e-2)
    assert step.rho == pytest.approx(cosine(psi, factor), abs=1e-2)
    assert step.decay == pytest.approx(0.015 * (before.double() * factor).sum().item())
