"""Compressed runs of real processes: the bytes that leave, streaming with error feedback, and its checkpoints."""

import math
from pathlib import Path

import pytest
import torch

from muloco.model import build
from muloco.outer.codecs import build_codec
from muloco.outer.protocol.exchange import split

from .runs import train

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

HEADERS = 1850
"""More bytes than the headers of a round have, for each of the other workers."""


@pytest.fixture(autouse=True)
def _one_thread_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.full
@pytest.mark.parametrize(("workers", "bits"), [(2, 2), (4, 4)])
def test_bytes_that_leave_a_worker_are_those_of_the_formula(workers: int, bits: int, tmp_path: Path) -> None:
    """sum over pieces of payload_bytes x 2 (K - 1) / K: the mean over the workers."""
    run = train(
        tmp_path,
        "compressed",
        "config/laptop/muloco_4bit.py",
        fault_tolerance__group_size=workers,
        fault_tolerance__sync_steps=2,
        training__steps=2,
        compression__kind="linear",
        compression__bits=bits,
        checkpoint__enable=False,
    )
    assert run.status == 0, run.output
    codec, shapes = build_codec("linear", bits=bits), [tuple(p.shape) for p in build("tiny").parameters()]
    payload = sum(
        4 * piece.elements if len(piece.shape) == 1 else codec.payload_bytes(piece.shape)
        for pieces in split(shapes, workers)
        for piece in pieces
    )
    formula = payload * 2 * (workers - 1) / workers
    lines = run.lines(event="sync")
    assert len(lines) == workers
    mean = sum(line["bytes_sent"] for line in lines) / workers
    assert formula < mean < formula + HEADERS * (workers - 1)
    assert mean == pytest.approx(formula, rel=0.06 if bits == 2 else 0.02), "headers included, at 363 200 elements"
    ring = 2 * (workers - 1) / workers * 4 * sum(map(math.prod, shapes))
    assert {line["bytes_ring"] for line in lines} == {ring}
    assert len(set(run.digests()[0].values())) == 1


@pytest.mark.full
def test_streaming_with_error_feedback_resumes_bit_by_bit(tmp_path: Path) -> None:
    """Two fragments, one of which is on its way when the checkpoint is written; both transports give the same."""
    settings = {
        "fault_tolerance__sync_steps": 4,
        "fault_tolerance__num_fragments": 2,
        "fault_tolerance__fragment_sync_delay": 1,
        "compression__kind": "statistical",
        "compression__bits": 2,
        "training__steps": 8,
        "checkpoint__interval": 5,
        "metrics__log_freq": 1,
        "fault_tolerance__transport": "in_process",
    }
    run = train(tmp_path, "whole", "config/laptop/muloco_4bit.py", **settings)
    assert run.status == 0, run.output
    assert all(len(set(digests.values())) == 1 for digests in run.digests())
    learned, anchor = run.learned(), run.anchor(8)
    run.go_back_to(5)
    again = train(tmp_path, "whole", "config/laptop/muloco_4bit.py", "--resume", **settings)
    assert again.status == 0, again.output
    assert max(line["attempt"] for line in again.lines()) == 2
    assert again.learned() == learned
    assert all(torch.equal(again.anchor(8)[name], tensor) for name, tensor in anchor.items())
