"""Figures that metrics are made of."""

import pytest
import torch

from muloco._torchtitan import device_type, peak_flops
from muloco.model import build, spec
from muloco.model.flavors import flavor
from muloco.outer.loop.sync import STATISTICS, Sync
from muloco.training.metrics import _of_whole_worker, gpu_figures, speed_of


def test_the_speed_of_a_gpu_is_counted_both_ways() -> None:
    """An H100 that takes 10,000 tokens a second of a model of 3 G parameters, 2.5 G of which multiply."""
    figures = gpu_figures(10_000, flops=15_000_000_000, parameters=3_000_000_000, peak_flops=1e15, memory_gib=42.5)
    assert figures == pytest.approx({"tflops": 150, "mfu": 0.15, "tflops_6n": 180, "mfu_6n": 0.18, "memory_gib": 42.5})


def test_the_log_says_which_count_a_speed_is_by() -> None:
    line = {"tokens_per_second": 20_000.0, "loss": 3.0}
    assert speed_of(line) == "20,000 tokens/s", "on a CPU"
    line |= {"tflops": 150.0, "tflops_6n": 180.0, "memory_gib": 42.5}
    assert speed_of(line) == "20,000 tokens/s, 150.0 TFLOP/s by torchtitan's count, 180.0 TFLOP/s by 6 N, 42.5 GiB"
    line |= {"mfu": 0.15, "mfu_6n": 0.18}
    assert speed_of(line) == (
        "20,000 tokens/s, 150.0 TFLOP/s by torchtitan's count (MFU 15.0%), 180.0 TFLOP/s by 6 N (MFU 18.0%), 42.5 GiB"
    )


@pytest.mark.parametrize(("name", "torchtitans", "by_6n"), [("150M", 585e6, 904e6), ("416M", 2015e6, 2501e6)])
def test_torchtitan_counts_no_embedding_and_all_of_attention(name: str, torchtitans: float, by_6n: float) -> None:
    """As docs/metrics.md says: an embedding does not multiply; attention is 12 x layers x width x positions."""
    size = flavor(name)
    _, counted = spec(name, seq_len=2048).model.get_nparams_and_flops(build(name, seq_len=2048), 2048)
    multiplied = size.parameters - size.vocabulary * size.width
    assert counted == 6 * multiplied + 12 * size.layers * size.width * 2048 == pytest.approx(torchtitans, rel=1e-3)
    assert 6 * size.parameters == pytest.approx(by_6n, rel=1e-3)


def test_a_share_of_an_unknown_peak_is_not_invented() -> None:
    figures = gpu_figures(10_000, flops=1_000_000, parameters=1_000_000, peak_flops=None, memory_gib=1.0)
    assert set(figures) == {"tflops", "tflops_6n", "memory_gib"}


@pytest.mark.parametrize(
    ("name", "answer", "known"),
    [("NVIDIA H100 80GB HBM3", 989e12, 989e12), ("NVIDIA A100-SXM4-40GB", 312e12, 312e12), ("RTX 4090", 312e12, None)],
)
def test_the_peak_is_known_where_torchtitan_knows_the_device(
    monkeypatch: pytest.MonkeyPatch, name: str, answer: float, known: float | None
) -> None:
    import muloco._torchtitan as gate

    class Device:
        current_device = staticmethod(lambda: 0)
        get_device_name = staticmethod(lambda device: name)

    monkeypatch.setattr(gate._utils, "device_type", "cuda")
    monkeypatch.setattr(gate._utils, "device_module", Device)
    monkeypatch.setattr(gate._utils, "get_peak_flops", lambda device_name: answer)
    assert peak_flops() == known


@pytest.mark.skipif(device_type() != "cpu", reason="on a CPU")
def test_a_cpu_has_no_peak() -> None:
    assert peak_flops() is None


def test_the_statistics_of_a_sync_are_those_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks with equal parts: checksums are added modulo 2^64, and times are those of rank 0."""
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda part: part.mul_(2))
    part = Sync(
        fragment=1,
        weights={0: 5, 2: 4},
        attempts=1,
        bytes_sent=2**40 + 1,
        bytes_ring=7,
        seconds_waited=1.5,
        seconds_hidden=0.25,
        digest=2**62 + 3,
        own_square=8.0,
        mean_square=2.0,
        product=3.0,
    )
    whole = _of_whole_worker(part)
    assert {statistic.name: statistic.of(whole) for statistic in STATISTICS} == {
        "fragment": 1,
        "participants": 2,
        "attempts": 1,
        "bytes_sent": 2**41 + 2,
        "bytes_ring": 14,
        "seconds_waited": 1.5,
        "seconds_hidden": 0.25,
        "pseudogradient_norm": 4.0,
        "mean_norm": 2.0,
        "cosine": 0.75,
        "weights": {"0": 5, "2": 4},
        "digest": "8000000000000006",
    }
