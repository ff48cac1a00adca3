"""Fragments, delay, merging, the outer optimizers and both transports, on real processes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from .runs import Run, train

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]  # several runs a test

STREAMING = "config/laptop/muloco_streaming.py"
PARAMETERS = 363_200


@pytest.fixture(autouse=True)
def _one_thread_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits depend on the number of threads, and that on the number of processes."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def finished(outputs: Path, name: str, *flags: str, **overrides: Any) -> Run:
    run = train(outputs, name, STREAMING, *flags, **overrides)
    assert run.status == 0, run.output
    assert all(len(set(digests.values())) == 1 for digests in run.digests()), "the workers hold one anchor"
    return run


SETTINGS = {
    "fault_tolerance__group_size": 3,
    "fault_tolerance__sync_steps": 7,
    "fault_tolerance__num_fragments": 2,
    "fault_tolerance__fragment_update_alpha": 0.25,
    "training__global_batch_size": 12,
    "training__steps": 16,
}
"""Two fragments, due at steps 3 and 7 of 7 and sent one step earlier, three workers that accumulate gradients."""


@pytest.mark.full
def test_transports_are_bit_equal(tmp_path: Path) -> None:
    torchft, in_process = (
        finished(tmp_path, transport, **SETTINGS, fault_tolerance__transport=transport)
        for transport in ("torchft", "in_process")
    )
    check_sync_lines(torchft)
    assert torchft.learned() == in_process.learned()
    ours, theirs = torchft.anchor(16), in_process.anchor(16)
    assert ours.keys() == theirs.keys() and len(ours) == 29
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.full
@pytest.mark.parametrize(("transport", "saved"), [("in_process", 9), ("torchft", 13)])
def test_runs_resume_bit_by_bit(tmp_path: Path, transport: str, saved: int) -> None:
    """Each run has its only checkpoint at another step, and there another fragment is on its way."""
    settings = {**SETTINGS, "fault_tolerance__transport": transport, "checkpoint__interval": saved}
    run = finished(tmp_path, "run", **settings)
    whole, anchor = run.learned(), run.anchor(16)
    check_sync_lines(run)
    run.go_back_to(saved)
    again = finished(tmp_path, "run", "--resume", **settings)
    attempts = {line["step"]: line["attempt"] for line in again.lines(worker=1) if "loss" in line}
    assert attempts == {step: 1 if step <= saved else 2 for step in range(1, 17)}
    assert again.learned() == whole
    assert all(torch.equal(again.anchor(16)[name], tensor) for name, tensor in anchor.items())


def check_sync_lines(run: Run) -> None:
    """When, what and how much was synced; the norms and cosines against what a mean of three vectors has to fulfil."""
    lines = run.lines(event="sync")
    places = [(line["step"], line["fragment"]) for line in lines if line["worker"] == 0]
    assert places == [(3, 0), (7, 1), (10, 0), (14, 1), (16, 0), (16, 1)]
    # inner steps between the last merge and sending
    for place, window in zip(places, (2, 6, 6, 6, 6, 2), strict=True):
        syncs = [line for line in lines if (line["step"], line["fragment"]) == place]
        assert [line["worker"] for line in syncs] == [0, 1, 2]
        (mean_norm,) = {line["mean_norm"] for line in syncs}
        along_the_mean = [line["cosine"] * line["pseudogradient_norm"] for line in syncs]
        assert sum(along_the_mean) / 3 == pytest.approx(mean_norm, rel=1e-4)
        for line in syncs:
            assert line["weights"] == {"0": window, "1": window, "2": window}
            assert (line["participants"], line["attempts"]) == (3, 1)
            assert 0 < line["cosine"] < 1
            assert line["seconds_waited"] >= 0 and line["seconds_hidden"] >= 0
    for worker in range(3):
        sent = sum(line["bytes_sent"] for line in lines if line["worker"] == worker)
        assert sent == pytest.approx(3 * 4 * PARAMETERS * 2 * 2 / 3, rel=0.01), "each fragment three times"


@pytest.mark.full
def test_sharded_workers_stream_what_whole_ones_do(tmp_path: Path) -> None:
    """Two workers of two ranks: parameters sharded over the ranks (FSDP2) or whole on both. The outer Muon has to see
    whole matrices in either case."""
    settings = {
        "training__steps": 6,
        "training__precision": "float32",
        "fault_tolerance__sync_steps": 4,
        "fault_tolerance__num_fragments": 2,
        "outer_optimizer__class_name": "muon",
        "outer_optimizer__lr": 0.02,
    }
    sharded = finished(tmp_path, "sharded", **settings, parallelism__data_parallel_shard_degree=2)
    settings |= {"fault_tolerance__transport": "in_process"}
    in_process = finished(tmp_path, "in-process", **settings, parallelism__data_parallel_shard_degree=2)
    whole = finished(tmp_path, "whole", **settings, parallelism__data_parallel_replicate_degree=2)
    assert [len(digests) for digests in sharded.digests()] == [2] * 4
    assert in_process.learned() == sharded.learned()
    for worker in (0, 1):
        ours, theirs = sharded.losses(worker), whole.losses(worker)
        assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], abs=1e-3)
    ours, theirs = sharded.anchor(6), whole.anchor(6)
    assert ours.keys() == theirs.keys() and len(ours) == 29
    for name, tensor in ours.items():
        assert (tensor - theirs[name]).norm() < 0.02 * theirs[name].norm(), name


@pytest.mark.full
def test_sixteen_workers_take_turns_on_one_device(tmp_path: Path) -> None:
    """With AdamW outside, whose learning rate falls."""
    run = finished(
        tmp_path,
        "sixteen",
        fault_tolerance__transport="in_process",
        fault_tolerance__group_size=16,
        fault_tolerance__sync_steps=6,
        training__global_batch_size=32,
        training__steps=5,
        outer_optimizer__class_name="adamw",
        outer_optimizer__lr=0.01,
        outer_optimizer__schedule="cosine",
        validation__sequences=2,
        checkpoint__enable=False,
    )
    assert [set(digests) for digests in run.digests()] == [set(range(16))] * 5
    assert len({loss for worker in range(16) for step, loss in run.losses(worker) if step == 1}) == 16
    assert run.validation()[5] < run.validation()[0] - 0.05
    assert run.summary()["workers"] == 16 and run.summary()["tokens"] == 5 * 32 * 64
    assert not run.folder.log("lighthouse").exists() and run.folder.log(0).exists()
    assert not run.folder.log(1).exists(), "one process"
