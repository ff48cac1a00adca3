"""A run with the loss in chunks, as for a large vocabulary, has the losses of a run with the whole loss."""

from pathlib import Path

import pytest

from muloco._torchtitan import loss_may_call_the_head
from muloco.training import titan_config

from .one_worker import losses, train


@pytest.mark.skipif(not loss_may_call_the_head(), reason="torch 2.11 crashes with a chunked loss")
@pytest.mark.parametrize("precision", ["float32", "autocast"])
def test_losses_of_training_and_validation_are_the_same(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"fault_tolerance__sync_steps": 2, "training__precision": precision}
    whole = losses(train(tmp_path / "whole", monkeypatch, "muloco", **changes))
    monkeypatch.setattr(titan_config, "LARGE_VOCABULARY", 2048)
    chunked = losses(train(tmp_path / "chunked", monkeypatch, "muloco", **changes))
    assert [line[:2] for line in chunked] == [line[:2] for line in whole] and len(whole) > 12
    tolerance = 1e-4 if precision == "float32" else 5e-3  # Muon makes much of a gradient's last bits
    assert [line[2] for line in chunked] == pytest.approx([line[2] for line in whole], rel=tolerance)
