"""GPA through the command line: its three points in checkpoints."""

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from .runs import train

pytestmark = pytest.mark.integration

GPA = "config/laptop/gpa.py"


def tensors(part: Path, prefix: str) -> dict[str, torch.Tensor]:
    metadata = dcp.FileSystemReader(part).read_metadata().state_dict_metadata
    found = {n: torch.empty(m.size, dtype=m.properties.dtype) for n, m in metadata.items() if n.startswith(prefix)}
    dcp.load(found, checkpoint_id=part, no_dist=True)
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


@pytest.mark.full
@pytest.mark.parametrize("workers", [1, 2])
def test_continues_bit_by_bit_and_keeps_the_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """From the middle of a window. Besides, the global part's average is x of the worker that writes it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = {
        "training__steps": 9,
        "fault_tolerance__group_size": workers,
        "fault_tolerance__transport": "in_process",
        "fault_tolerance__sync_steps": 4,
        "checkpoint__interval": 3,
        "checkpoint__keep": 0,
        "validation__freq": 2,
        "optimizer__mu_x": 0.8,
        "metrics__log_freq": 1,
    }
    first = train(tmp_path, "gpa", GPA, **settings)
    assert first.status == 0, first.output
    learned = first.learned()
    assert learned["losses"][0] and len(first.digests()) == (0 if workers == 1 else 3)

    step = first.folder.checkpoint / "step-6"
    y = tensors(step / "worker-000", "model.layers.0.")
    state = tensors(step / "worker-000", "optimizer.state.layers.0.")
    z = {name: value for name, value in state.items() if name.endswith(".z")}
    x = tensors(step / "global", "average.layers.0.")
    assert len(x) == len(y) == len(z) > 5
    for name, value in x.items():
        assert not torch.equal(value, y[name])
        torch.testing.assert_close(0.7 * value + 0.3 * z[f"{name}.z"], y[name], rtol=1e-5, atol=1e-6)

    first.go_back_to(6)
    again = train(tmp_path, "gpa", GPA, "--resume", **settings)
    assert again.status == 0 and "resumed from checkpoint step-6" in again.output, again.output
    assert again.learned() == learned
