"""Power laws: exact ones are found again, and the printed exponents follow from the printed losses."""

import numpy as np
import pytest

from muloco.analysis import published
from muloco.analysis.power_law import PowerLaw, fit_power_law
from muloco.model.flavors import flavor

SCALES = published.SCALES[:5]
TOKENS = [flavor(scale).token_budget for scale in SCALES]
COMPUTE = [6 * flavor(scale).parameters * tokens for scale, tokens in zip(SCALES, TOKENS, strict=True)]
LAW = PowerLaw(coefficient=5000.0, exponent=-0.2, irreducible=1.7)


def losses(method: str) -> list[float]:
    if method in published.DP_LOSS:
        return [published.DP_LOSS[method][scale] for scale in SCALES]
    inner, workers = method.split(" K=")
    return [published.WORKER_LOSS[inner][int(workers)][scale] for scale in SCALES]


@pytest.mark.parametrize("irreducible", [1.7, None])
def test_an_exact_law_is_found_again(irreducible: float | None) -> None:
    fit = fit_power_law(COMPUTE, LAW.predict(COMPUTE), irreducible)
    assert fit.exponent == pytest.approx(-0.2, abs=2e-4) and fit.irreducible == pytest.approx(1.7, abs=2e-3)
    assert fit.predict([1e22]) == pytest.approx(LAW.predict([1e22]), abs=2e-4)


@pytest.mark.parametrize("method", published.EXPONENT)
def test_the_papers_exponents_follow_from_its_losses(method: str) -> None:
    fit = fit_power_law(COMPUTE, losses(method), published.IRREDUCIBLE)
    assert fit.exponent == pytest.approx(published.EXPONENT[method], abs=0.0015)


@pytest.mark.parametrize("method", ["DP Muon", "MuLoCo K=1"])
def test_critical_batches_grow_as_published(method: str) -> None:
    """The batches are on a grid of factors of 2."""
    batches = [published.CRITICAL_BATCH[method][scale] for scale in SCALES]
    fit = fit_power_law(TOKENS, batches, 0.0, breadth=0.05)
    assert fit.exponent == pytest.approx(published.CRITICAL_BATCH_EXPONENT[method], abs=0.03)


def test_one_outlier_moves_it_little() -> None:
    """Least squares goes three times as far."""
    x = np.geomspace(1e18, 1e22, 9)
    y = LAW.predict(x)
    y[3] *= 1.03
    squares = np.polyfit(np.log(x), np.log(y - 1.7), 1)[0]
    fit = fit_power_law(x, y, 1.7)
    assert 3 * abs(fit.exponent + 0.2) < abs(squares + 0.2)


@pytest.mark.parametrize(
    ("compute", "loss", "irreducible", "message"),
    [
        ([1e18], [3.0], 1.7, "needs 2 different computes; got 1"),
        ([1e18, 1e19], [3.0, 2.5], None, "needs 3 different computes; got 2"),
        ([1e18, 1e19], [3.0], 1.7, "must be of one length; got 2 and 1"),
        ([1e18, -1.0], [3.0, 2.5], 1.7, "compute must be positive and finite"),
        ([1e18, 1e19], [3.0, float("nan")], 1.7, "loss must be positive and finite"),
        ([1e18, 1e19], [3.0, 1.7], 1.7, "from 0 to below every loss"),
    ],
)
def test_what_cannot_be_fitted_is_refused(compute, loss, irreducible, message) -> None:
    with pytest.raises(ValueError, match=message):
        fit_power_law(compute, loss, irreducible)
