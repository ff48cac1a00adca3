"""torchtitan's config for a muloco config."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from .one_worker import train


def test_collectives_within_a_worker_have_a_timeout_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after the first step, whatever an exchange with other workers may take."""
    told: list[timedelta] = []
    from torchtitan.distributed import utils

    init = utils.init_distributed

    def note_init(comm: Any, **kwargs: Any) -> int:
        told.append(timedelta(seconds=comm.init_timeout_seconds))
        return init(comm, **kwargs)

    monkeypatch.setattr(utils, "init_distributed", note_init)
    monkeypatch.setattr(utils, "set_pg_timeouts", lambda timeout, parallel_dims: told.append(timeout))
    changes = {"fault_tolerance__exchange_timeout_seconds": 7, "training__steps": 1, "lr_scheduler__warmup_steps": 0}
    train(tmp_path / "default", monkeypatch, "muloco", **changes)
    train(tmp_path / "longer", monkeypatch, "muloco", parallelism__collective_timeout_seconds=1200.5, **changes)
    assert [timeout.total_seconds() for timeout in told] == [600, 600, 1201, 1201]
