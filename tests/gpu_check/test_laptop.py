"""What the short trainings are told."""

from pathlib import Path

import pytest
import torch

from muloco.gpu_check.bench import Bench
from muloco.gpu_check.checks import laptop
from muloco.gpu_check.runs import Fields, Run
from muloco.runs.folder import RunFolder


def test_runs_that_are_to_be_equal_time_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU `auto` takes what is faster when it is first tried, which another run may see otherwise."""
    told: list[Fields] = []

    def trained(bench: Bench, name: str, config: str, fields: Fields) -> Run:
        told.append(fields)
        sync = {"event": "sync", "worker": 0, "step": 6, "fragment": 0, "digest": "0"}
        line = {"worker": 0, "loss": 1.0, "tokens_per_second": 1.0}
        zeros = dict.fromkeys(("seconds_waited", "seconds_hidden", "bytes_sent"), 0)
        return Run(RunFolder(tmp_path), [line, {**sync, **zeros}])

    monkeypatch.setattr(laptop, "trained", trained)
    assert laptop.in_process(Bench(torch.device("cpu"), tmp_path, False))["equal_digests"] == 1
    assert [fields.get("optimizer.symmetric_products") for fields in told] == ["matmul", "matmul"]
