"""Critical batch sizes."""

import pytest

from muloco.analysis import published
from muloco.analysis.critical_batch import critical_batch


@pytest.mark.parametrize("method", published.CRITICAL_BATCH)
def test_published_critical_batches_follow_from_the_published_losses(method: str) -> None:
    assert critical_batch(published.LOSS_BY_BATCH[method]) == published.CRITICAL_BATCH[method]["3.1B"]


def test_the_tolerance_is_relative_to_the_best() -> None:
    losses = {1: 2.5, 2: 2.0, 4: 2.02, 8: 2.021}
    assert critical_batch(losses) == 4
    with pytest.raises(ValueError, match="needs losses"):
        critical_batch({})
