"""Tensor and pipeline parallelism, and a model of the paper, on real processes."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ..covering import full
from .runs import train

pytestmark = pytest.mark.integration

MULOCO = "config/laptop/muloco.py"


@pytest.mark.full
@pytest.mark.parametrize(("workers", "resumed"), [(1, False), (2, True)])
def test_tensor_parallel_workers_learn_what_whole_ones_do_and_resume(
    tmp_path: Path, workers: int, resumed: bool
) -> None:
    """Workers of two tensor-parallel ranks read what workers of one rank read. The checkpoint is of mid-window."""
    settings = {
        "fault_tolerance__group_size": workers,
        "training__steps": 6,
        "training__precision": "float32",
        "fault_tolerance__sync_steps": 3,
        "metrics__log_freq": 1,
        "checkpoint__interval": 4,
    }
    whole = train(tmp_path, "whole", MULOCO, **settings)
    tensor = train(tmp_path, "tensor", MULOCO, **settings, parallelism__tensor_parallel_degree=2)
    assert (whole.status, tensor.status) == (0, 0), whole.output + tensor.output
    assert [set(digests) for digests in tensor.digests()] == [set(range(workers))] * 2
    assert all(len(set(digests.values())) == 1 for digests in tensor.digests())
    assert tensor.validation()[0] == pytest.approx(whole.validation()[0], abs=1e-5)
    for worker in range(workers):
        ours, theirs = tensor.losses(worker), whole.losses(worker)
        assert [step for step, _ in ours] == [step for step, _ in theirs] == [1, 2, 3, 4, 5, 6]
        assert ours[0][1] == pytest.approx(theirs[0][1], abs=1e-5)
        assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], abs=0.01)
        assert theirs[0][1] - theirs[5][1] > 0.5
    assert tensor.summary()["tokens"] == whole.summary()["tokens"] == 6 * 8 * 64
    counted = [line["tokens"] for line in tensor.lines(worker=0) if "tokens" in line]
    assert counted == [step * 8 // workers * 64 for step in range(1, 7)], "not once for each tensor-parallel rank"

    if not resumed:
        return
    before = tensor.learned()
    tensor.go_back_to(4)
    again = train(tmp_path, "tensor", MULOCO, "--resume", **settings, parallelism__tensor_parallel_degree=2)
    assert again.status == 0, again.output
    attempts = {line["step"]: line["attempt"] for line in again.lines(worker=workers - 1) if "loss" in line}
    assert attempts == {step: 1 if step <= 4 else 2 for step in range(1, 7)}
    assert again.learned() == before


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with initial weights: stages of a pipeline draw other numbers than a whole model."""
    folder = tmp_path_factory.mktemp("weights")
    seed = train(
        folder, "seed", MULOCO, fault_tolerance__group_size=1, training__steps=1, training__precision="float32"
    )
    assert seed.status == 0, seed.output
    words = [sys.executable, "-m", "muloco", "export", str(seed.folder.root), "--format", "hf", str(folder / "hf")]
    subprocess.run(words, check=True, capture_output=True)
    return folder / "hf"


@pytest.mark.parametrize(
    "divided",
    [
        {"pipeline_parallel_degree": 2},
        pytest.param({"pipeline_parallel_degree": 2, "data_parallel_shard_degree": 2}, marks=full),
        pytest.param({"pipeline_parallel_degree": 2, "tensor_parallel_degree": 2}, marks=full),
    ],
    ids=lambda divided: "x".join(name.split("_")[0] for name in divided),
)
def test_workers_with_a_pipeline_learn_what_whole_ones_do_and_resume(
    divided: dict[str, int], weights: Path, tmp_path: Path
) -> None:
    """Two workers, two fragments in each stage, a compressed exchange; the checkpoint is of mid-window. The workers
    that they are compared with are divided in the same way otherwise."""
    settings = {
        "fault_tolerance__group_size": 2,
        "training__steps": 6,
        "training__precision": "float32",
        "fault_tolerance__sync_steps": 4,
        "fault_tolerance__num_fragments": 2,
        "compression__kind": "linear",
        "compression__bits": 8,
        "metrics__log_freq": 1,
        "validation__freq": 4,
        "checkpoint__interval": 3,
        "checkpoint__initial": weights,
    }
    parallel = {f"parallelism__{name}": degree for name, degree in divided.items()}
    others = {name: degree for name, degree in parallel.items() if "pipeline" not in name}
    whole = train(tmp_path, "whole", MULOCO, **settings, **others)
    stages = train(tmp_path, "stages", MULOCO, **settings, **parallel)
    assert (whole.status, stages.status) == (0, 0), whole.output + stages.output
    assert [set(digests) for digests in stages.digests()] == [{0, 1}] * 4
    assert all(len(set(digests.values())) == 1 for digests in stages.digests())
    for ours, theirs in (
        (stages.validation(), whole.validation()),
        *((dict(stages.losses(w)), dict(whole.losses(w))) for w in (0, 1)),
    ):
        assert ours == pytest.approx(theirs, abs=0.05) and ours != {}  # the fragments are others
        assert ours[min(ours)] == pytest.approx(theirs[min(theirs)], abs=1e-5)
    assert stages.summary()["tokens"] == whole.summary()["tokens"] == 6 * 8 * 64
    assert set(stages.anchor(6)) == set(whole.anchor(6))
    before = stages.learned()
    stages.go_back_to(3)
    again = train(tmp_path, "stages", MULOCO, "--resume", **settings, **parallel)
    assert again.status == 0, again.output
    assert again.learned() == before


@pytest.mark.full
def test_the_papers_smallest_model_takes_a_step(tmp_path: Path) -> None:
    """150M parameters on the CPU, seven copies of them: parameters, gradients, two moments, anchor, outer momentum and
    the pseudogradient on its way. A checkpoint would be another 3 GB on disk."""
    run = train(
        tmp_path,
        "150M",
        MULOCO,
        model__flavor="150M",
        fault_tolerance__group_size=1,
        training__steps=1,
        training__global_batch_size=2,
        validation__sequences=2,
        checkpoint__enable=False,
        lr_scheduler__warmup_steps=0,
    )
    assert run.status == 0, run.output
    assert len(run.digests()) == 1
    assert run.validation()[1] < run.validation()[0] - 0.1
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 8e9
