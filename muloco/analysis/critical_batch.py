"""Critical batch sizes from final losses by batch size, in tokens or sequences."""

from collections.abc import Mapping

TOLERANCE = 0.01
"""A batch is not above the critical one while its loss is within this share of the best."""


def critical_batch(loss_by_batch: Mapping[int, float]) -> int:
    """The largest batch of the grid whose loss is within `TOLERANCE` of the best of all.

    Raises:
        ValueError: there is no loss.
    """
    if not loss_by_batch:
        raise ValueError("a critical batch size needs losses of some batch sizes")
    limit = (1 + TOLERANCE) * min(loss_by_batch.values())
    return max(batch for batch, loss in loss_by_batch.items() if loss <= limit)


def crossing(loss_by_batch: Mapping[int, float]) -> float:
    """The critical batch between the batches of a grid: where the loss, linear in log(batch) between them, leaves
    `TOLERANCE` above the best of all for the last time; the largest batch if it never does.

    Raises:
        ValueError: there is no loss.
    """
    inside = critical_batch(loss_by_batch)
    beyond = min((batch for batch in loss_by_batch if batch > inside), default=None)
    if beyond is None:
        return float(inside)
    limit = (1 + TOLERANCE) * min(loss_by_batch.values())
    share = (limit - loss_by_batch[inside]) / (loss_by_batch[beyond] - loss_by_batch[inside])
    return inside * (beyond / inside) ** share
