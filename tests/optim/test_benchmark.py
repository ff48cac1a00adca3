"""benchmarks/muon.py: the work that it times, and the products that it compares with."""

import importlib

import pytest

from muloco.model.flavors import flavor
from muloco.settings.load import CHECKOUT


@pytest.fixture
def muon(monkeypatch):
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    return importlib.import_module("muon")


def test_a_gpu_has_nothing_left_to_do_when_a_clock_starts_and_stops(muon, monkeypatch):
    done = []
    monkeypatch.setattr(muon.torch.cuda, "synchronize", lambda: done.append("wait"))
    monkeypatch.setattr(muon.time, "perf_counter", lambda: done.append("clock") or 0.0)
    muon.seconds(lambda: done.append("work"), "cuda")
    assert done == ["wait", "clock", "work", "wait", "clock"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_products_are_of_the_sizes_and_batches_of_the_step(muon, monkeypatch, device):
    """The batches of 150M: 24 square matrices, and 18 of 1408 by 512."""
    matrices = muon.shapes(flavor("150M"))
    found = list(muon.batches(matrices, device))
    assert sum(count * rows * cols for count, rows, cols in found) == sum(rows * cols for rows, cols in matrices)
    assert {(rows, cols) for _, rows, cols in found} == set(matrices)
    assert max(count for count, _, _ in found) == (2 if device == "cpu" else 24)
    sizes, bmm = [], muon.torch.bmm
    monkeypatch.setattr(
        muon.torch, "bmm", lambda a, b, out: sizes.append((*a.shape, b.shape[-1])) or bmm(a, b, out=out)
    )
    muon.gemm_rate([(48, 48), (48, 48), (112, 48), (48, 112)], "cpu")
    assert set(sizes) == {(2, 48, 48, 48), (1, 48, 48, 112)}
