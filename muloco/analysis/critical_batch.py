"""Best and critical values of a setting from losses on a grid: batch sizes and learning rates."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

TOLERANCE = 0.01
"""A batch is not above the critical one while its loss is within this share of the best."""


def critical_batch(loss_by_batch: Mapping[int, float], *, tolerance: float = TOLERANCE) -> int:
    """The largest batch of the grid whose loss is within `tolerance` of the best of all.

    Args:
        loss_by_batch: final loss by batch size, in tokens or sequences.
        tolerance: relative.

    Raises:
        ValueError: there is no loss.
    """
    if not loss_by_batch:
        raise ValueError("a critical batch size needs losses of some batch sizes")
    best = min(loss_by_batch.values())
    return max(batch for batch, loss in loss_by_batch.items() if loss <= (1 + tolerance) * best)


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """The setting at which a loss is least."""

    at: float
    loss: float
    at_edge: bool
    """The best of the grid is its first or last value: the optimum may lie beyond."""


def optimum(loss_by_rate: Mapping[float, float]) -> Optimum:
    """The learning rate of least loss, between the values of a grid: the vertex of the parabola in log(rate) through
    the best value and its two neighbours; at the grid's edge the best value itself.

    Args:
        loss_by_rate: final loss by learning rate; the rates positive. Losses that are no finite numbers (a run that has
            diverged) are never the best, nor are they interpolated.

    Raises:
        ValueError: no loss is finite.
    """
    rates = sorted(rate for rate, loss in loss_by_rate.items() if math.isfinite(loss))
    if not rates:
        raise ValueError("an optimum needs at least one finite loss")
    place = min(range(len(rates)), key=lambda index: loss_by_rate[rates[index]])
    best = rates[place]
    diverged_above = any(rate > best and not math.isfinite(loss) for rate, loss in loss_by_rate.items())
    if place == 0 or (place == len(rates) - 1):
        edge = not (place == len(rates) - 1 and diverged_above and place > 0)
        return Optimum(at=best, loss=loss_by_rate[best], at_edge=edge)
    x0, x1, x2 = (math.log(rate) for rate in rates[place - 1 : place + 2])
    y0, y1, y2 = (loss_by_rate[rate] for rate in rates[place - 1 : place + 2])
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    curvature = (right - left) / (x2 - x0)
    if curvature <= 0:  # all three alike
        return Optimum(at=best, loss=y1, at_edge=False)
    vertex = (x0 + x1) / 2 - left / (2 * curvature)
    loss = y0 + (vertex - x0) * (left + curvature * (vertex - x1))
    return Optimum(at=math.exp(vertex), loss=loss, at_edge=False)


def crossing(loss_by_batch: Mapping[int, float], *, tolerance: float = TOLERANCE) -> float:
    """The critical batch between the batches of a grid: where the loss, linear in log(batch) between them, leaves
    `tolerance` above the best of all for the last time; the largest batch if it never does.

    Args:
        loss_by_batch: final loss by batch size, in tokens or sequences.
        tolerance: relative.

    Raises:
        ValueError: there is no loss.
    """
    inside = critical_batch(loss_by_batch, tolerance=tolerance)
    beyond = min((batch for batch in loss_by_batch if batch > inside), default=None)
    if beyond is None:
        return float(inside)
    limit = (1 + tolerance) * min(loss_by_batch.values())
    share = (limit - loss_by_batch[inside]) / (loss_by_batch[beyond] - loss_by_batch[inside])
    return inside * (beyond / inside) ** share
