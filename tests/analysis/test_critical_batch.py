"""Critical batch sizes and optimal learning rates."""

import math

import pytest

from muloco.analysis import published
from muloco.analysis.critical_batch import critical_batch, optimum


@pytest.mark.parametrize("method", published.CRITICAL_BATCH)
def test_published_critical_batches_follow_from_the_published_losses(method: str) -> None:
    assert critical_batch(published.LOSS_BY_BATCH[method]) == published.CRITICAL_BATCH[method]["3.1B"]


def test_the_tolerance_is_relative_to_the_best() -> None:
    losses = {1: 2.5, 2: 2.0, 4: 2.02, 8: 2.021}
    assert critical_batch(losses) == 4
    assert critical_batch(losses, tolerance=0.02) == 8
    with pytest.raises(ValueError, match="needs losses"):
        critical_batch({})


def test_the_vertex_of_a_parabola_in_the_logarithm_is_found() -> None:
    rates = [2 ** (-k / 2) for k in range(8)]
    best = optimum({rate: 3 + 0.1 * (math.log(rate) + 1.1) ** 2 for rate in rates})
    assert best.at == pytest.approx(math.exp(-1.1)) and best.loss == pytest.approx(3.0) and not best.at_edge


def test_at_the_edge_the_best_is_said_to_be_there() -> None:
    best = optimum({0.1: 3.0, 0.2: 2.9, 0.4: 2.8})
    assert (best.at, best.loss, best.at_edge) == (0.4, 2.8, True)


def test_a_diverged_run_bounds_the_grid() -> None:
    best = optimum({0.1: 3.0, 0.2: 2.9, 0.4: math.nan})
    assert (best.at, best.at_edge) == (0.2, False)
    with pytest.raises(ValueError, match="at least one finite loss"):
        optimum({0.1: math.inf})
