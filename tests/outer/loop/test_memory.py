"""Compares the memory counted at the peak of a sync with the figures of `sync_words`."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from muloco.outer import (
    OuterLoop,
    QuorumPolicy,
    Transport,
    WorkerIdentity,
)
from muloco.outer.codecs import build_codec, compression
from muloco.outer.codecs.compression import Compression
from muloco.outer.in_process import InProcessGroup
from muloco.outer.loop import digest, in_flight
from muloco.outer.loop.memory import sync_words
from muloco.outer.protocol import exchange

from ...covering import only
from ..over_torchft import connect, in_threads
from ..toy import SECONDS, sgd
from ..words import CountedPending, Ledger
from ..workers import run_workers

TENSORS, SHAPE = 66, (32, 32)
N = TENSORS * 32 * 32
SMALL = 0.2
"""Share of N that buffers of fixed size take, which are small beside a model: here one piece is N / 66."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the table."""

    workers: int
    delay: int = 0
    compressed: bool = False
    feedback: bool = False
    reduce: str = "reselect"
    fragments: int = 1
    in_process: bool = True
    gradients_stay: bool = False

    @property
    def promised(self) -> float:
        return sync_words(
            workers=self.workers,
            sync_delay=self.delay,
            compressed=self.compressed,
            error_feedback=self.feedback,
            fragments=self.fragments,
            in_process=self.in_process,
            gradients_stay=self.gradients_stay,
        )


SETTINGS = [
    *(Setting(workers=k, delay=tau) for k in (1, 4) for tau in (0, 2)),
    *(Setting(workers=3, compressed=True, delay=tau, feedback=ef) for tau in (0, 2) for ef in (False, True)),
    Setting(workers=1, compressed=True, feedback=True),
    Setting(workers=2, compressed=True, reduce="gather"),
    Setting(workers=2, delay=2, fragments=3),
    *(Setting(workers=2, delay=tau, gradients_stay=True) for tau in (0, 2)),
    *(Setting(workers=k, delay=tau, in_process=False) for k in (1, 2, 4) for tau in (0, 2)),
    *(
        Setting(workers=2, compressed=True, feedback=ef, delay=tau, in_process=False)
        for ef in (False, True)
        for tau in (0, 2)
    ),
    Setting(workers=2, delay=2, fragments=3, in_process=False),
    Setting(workers=2, gradients_stay=True, in_process=False),
]


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A model is large beside what is worked on at once: here, one piece of each owner."""
    monkeypatch.setattr(exchange, "BATCH_BYTES", 1)
    monkeypatch.setattr(compression, "PART_ELEMENTS", 32 * 32)
    monkeypatch.setattr(digest, "_BLOCK", 1024)
    monkeypatch.setattr(in_flight, "Pending", CountedPending)
    yield


def build(setting: Setting, parameters: dict[str, torch.Tensor], transport: Transport, worker: int) -> OuterLoop:
    names = list(parameters)
    size = len(names) // setting.fragments
    return OuterLoop(
        parameters,
        sgd(0.7),
        transport,
        identity=WorkerIdentity(worker=worker, workers=setting.workers),
        quorum=QuorumPolicy(quorum_timeout_seconds=SECONDS),
        sync_interval=3 * setting.fragments,
        fragments=[names[i * size : (i + 1) * size] for i in range(setting.fragments)],
        delay=setting.delay,
        compression=Compression(
            codec=build_codec("linear", bits=4) if setting.compressed else build_codec("none"),
            reduce=setting.reduce,
            error_feedback=setting.feedback,
        ),
    )


def peak(setting: Setting, ledger: Ledger, transport: Transport, worker: int) -> tuple[float, float]:
    """Words of N that are alive between two syncs, and at the peak from there on, over one sync of everything. The
    inner optimizer's state, which does not change, is left out."""
    with ledger.counting():
        parameters = {str(i): torch.zeros(SHAPE, requires_grad=True) for i in range(TENSORS)}
        outer = build(setting, parameters, transport, worker)
        outer.start(0)
        window, between = 3 * setting.fragments, 0
        for step in range(1, 2 * window + 1):
            for tensor in parameters.values():
                tensor.grad = None
            for tensor in parameters.values():
                tensor.grad = torch.full(SHAPE, float(worker + step))
            if step == window + 1:
                between = ledger.begin()
            ledger.rounds_may_run.set()
            if transport.concurrent:
                outer.last_round()  # runs beside these gradients, however quick the steps are
            ledger.rounds_may_run.clear()
            for tensor in parameters.values():
                tensor.data.sub_(tensor.grad)
            if not setting.gradients_stay:
                for tensor in parameters.values():
                    tensor.grad = None  # as the trainer frees them
            outer.after_inner_step(step)
        outer.close()
    return between / N, ledger.peak / 4 / N


def counted(setting: Setting, lighthouse) -> float:
    """Returns words a parameter for each worker, above what it holds between syncs."""
    if setting.in_process:
        group, ledger = InProcessGroup(setting.workers), Ledger()
        peaks = run_workers(group, lambda worker: peak(setting, ledger, group.transport(worker), worker))
        state = 4 + (1 + 1 / setting.workers if setting.feedback else 0)
        return max(highest for _, highest in peaks) / setting.workers - state
    address = lighthouse(setting.workers)
    peaks = in_threads(setting.workers, lambda worker: peak(setting, Ledger(), connect(worker, address), worker))
    return max(highest - between for between, highest in peaks)


@pytest.mark.parametrize("setting", only(SETTINGS[::3], SETTINGS), ids=str)
def test_the_peak_of_a_sync_is_what_is_promised(setting: Setting, lighthouse) -> None:
    found = counted(setting, lighthouse)
    assert found == pytest.approx(setting.promised, abs=SMALL)
