"""Power laws of loss against compute, L = A C^a + L_irr, and of other positive numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BREADTH = 1e-3
"""Relative deviations of a loss that are more than noise."""


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """coefficient * x ** exponent + irreducible."""

    coefficient: float
    exponent: float
    irreducible: float = 0.0

    def predict(self, compute: float | Sequence[float] | np.ndarray) -> np.ndarray:
        """The value at each x, as float64."""
        return self.coefficient * np.asarray(compute, dtype=float) ** self.exponent + self.irreducible


def fit_power_law(
    compute: Sequence[float],
    loss: Sequence[float],
    irreducible: float | None = None,
    *,
    breadth: float = BREADTH,
) -> PowerLaw:
    """Fits L = A C^a + L_irr, robustly: deviations count squared while they are small, else linearly.

    Args:
        compute: C, positive; in FLOPs, 6 N D, for the paper's laws.
        loss: L at each, of the same length.
        irreducible: L_irr, below every loss; None: fitted too, at least 0, which takes three different C.
        breadth: relative deviation of a loss up to which it counts squared.

    Raises:
        ValueError: too few points, values that are not positive, or a loss at or below L_irr.
    """
    x, y = np.asarray(compute, dtype=float), np.asarray(loss, dtype=float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"compute and loss must be of one length; got {len(compute)} and {len(loss)}")
    for name, values in (("compute", x), ("loss", y)):
        if not np.all((values > 0) & np.isfinite(values)):
            raise ValueError(f"{name} must be positive and finite; got {list(values)}")
    given, least = ("without", 3) if irreducible is None else ("with", 2)
    if len(set(x)) < least:
        raise ValueError(f"a fit {given} a given irreducible loss needs {least} different computes; got {len(set(x))}")
    if irreducible is None:
        return _free(x, y, breadth)
    if not 0 <= irreducible < y.min():
        raise ValueError(f"irreducible must be from 0 to below every loss ({y.min():g}); got {irreducible}")
    return _fixed(x, y, irreducible, breadth)


def _fixed(x: np.ndarray, y: np.ndarray, irreducible: float, breadth: float) -> PowerLaw:
    from scipy.optimize import least_squares

    logs, targets = np.log(x), np.log(y - irreducible)
    middle = logs.mean()
    scale = breadth * float(np.median(y / (y - irreducible)))  # as a deviation of the target
    slope, height = np.polyfit(logs - middle, targets, 1)

    def deviations(at: np.ndarray) -> np.ndarray:
        return at[0] * (logs - middle) + at[1] - targets

    slope, height = least_squares(deviations, (slope, height), loss="soft_l1", f_scale=scale).x
    return PowerLaw(coefficient=float(np.exp(height - slope * middle)), exponent=float(slope), irreducible=irreducible)


def _free(x: np.ndarray, y: np.ndarray, breadth: float) -> PowerLaw:
    """Fits all three numbers at once, from the best of a grid of irreducible losses."""
    from scipy.optimize import least_squares

    logs, targets = np.log(x), np.log(y)
    middle = logs.mean()

    def line(irreducible: float) -> tuple[float, float, float]:
        """Fits a line to the losses above an irreducible loss by least squares; returns it, as a start, and its
        quality."""
        above = np.log(y - irreducible)
        slope, height = np.polyfit(logs - middle, above, 1)
        relative = (slope * (logs - middle) + height - above) * (1 - irreducible / y)
        return slope, height, float(np.square(relative).sum())

    most = float(y.min()) * (1 - 1e-9)
    start = min(np.linspace(0, most, 100, endpoint=False), key=lambda value: line(value)[2])

    def deviations(at: np.ndarray) -> np.ndarray:
        return np.log(np.exp(at[0] * (logs - middle) + at[1]) + at[2]) - targets

    slope, height, irreducible = least_squares(
        deviations,
        (*line(start)[:2], start),
        bounds=([-np.inf, -np.inf, 0.0], [np.inf, np.inf, most]),
        x_scale=(0.1, 0.1, 0.1),
        loss="soft_l1",
        f_scale=breadth,
    ).x
    coefficient = float(np.exp(height - slope * middle))
    return PowerLaw(coefficient=coefficient, exponent=float(slope), irreducible=float(irreducible))
