"""Workers as threads at a real lighthouse give the bits that workers of one process give."""

import itertools
from pathlib import Path

import pytest
import torch

from muloco.launch.lighthouse import start_lighthouse

from ..over_torchft import connect, in_threads
from ..toy import Case, Result, train, train_in_process

GRID = {
    "workers": (1, 2, 3, 4, 8),
    "fragments": (1, 2, 3),
    "delay": (0, 1, 3),
    "alpha": (0.0, 0.5),
    "lr": (0.7, 1.0),
}


def pairwise() -> list[Case]:
    """Runs in which every two values of two fields meet; each next one is that with the most pairs that are new."""

    def pairs(values: tuple) -> set:
        return set(itertools.combinations(zip(GRID, values, strict=True), 2))

    everything = list(itertools.product(*GRID.values()))
    missing, chosen = set().union(*map(pairs, everything)), []
    while missing:
        best = max(everything, key=lambda values: len(pairs(values) & missing))
        missing -= pairs(best)
        chosen.append(Case(**dict(zip(GRID, best, strict=True)), interval=13, steps=29))
    return chosen


def assert_equals_in_process(case: Case, address: str, run: str) -> None:
    def work(worker: int) -> Result:
        transport = connect(worker, address, run=run)
        try:
            return train(case, worker, transport)
        finally:
            transport.close()

    for worker, (ours, alone) in enumerate(zip(in_threads(case.workers, work), train_in_process(case), strict=True)):
        assert ours.history == alone.history, f"{case}: syncs of worker {worker}"
        assert ours.digests == alone.digests, f"{case}: digests of worker {worker}"
        for name, value in alone.parameters.items():
            assert torch.equal(ours.parameters[name], value), f"{case}: {name} of worker {worker}"


def test_bits_equal_those_in_process(lighthouse) -> None:
    cases = pairwise()
    assert 15 <= len(cases) <= 20
    for number, case in enumerate(cases):
        assert_equals_in_process(case, lighthouse(case.workers), f"run-{number}")


def test_one_lighthouse_serves_one_run_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that a run starts; it makes quorums of one, so that the workers assemble by themselves. Who has left
    is forgotten after the heartbeat timeout."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    child, address = start_lighthouse(workers=1, log=tmp_path / "lighthouse.log", heartbeat_timeout=1.0)
    try:
        for number, workers in enumerate((3, 2)):
            case = Case(workers=workers, fragments=2, delay=1, alpha=0.5)
            assert_equals_in_process(case, address, f"run-{number}")
    finally:
        child.end(grace_seconds=1)
