"""The exchange against a plain mean, for group sizes and lengths that do not divide."""

import pytest
import torch

from muloco.outer import exchange
from muloco.outer.exchange import average
from muloco.outer.in_process import InProcessGroup

from .workers import run_workers


def averaged(tensors: list[torch.Tensor], weights: list[int]) -> tuple[list[torch.Tensor], list[int]]:
    """What each worker holds after the exchange, and the bytes that it sent."""
    group = InProcessGroup(len(tensors))

    def work(rank: int) -> tuple[torch.Tensor, int]:
        round = group.transport(rank).open(1)
        flat = tensors[rank].clone()
        average(round, flat, weights)
        return flat, round.bytes_sent

    results = run_workers(group, work)
    return [flat for flat, _ in results], [sent for _, sent in results]


@pytest.mark.parametrize("length", [1, 2, 7, 64, 1001])
@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_mean_of_equal_weights(workers: int, length: int) -> None:
    torch.manual_seed(length)
    tensors = [torch.randn(length) for _ in range(workers)]
    results, _ = averaged(tensors, [30] * workers)
    expected = torch.stack([t.double() for t in tensors]).mean(0)
    for result in results:
        torch.testing.assert_close(result.double(), expected, rtol=1e-6, atol=1e-6)
        assert torch.equal(result, results[0])


def test_weights_count_and_weight_zero_is_left_out() -> None:
    tensors = [torch.tensor([1.0, 2.0]), torch.tensor([float("nan"), float("inf")]), torch.tensor([5.0, -2.0])]
    results, _ = averaged(tensors, [1, 0, 3])
    for result in results:
        assert result.tolist() == [4.0, -1.0]


def test_weights_of_zero_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must not sum to 0; got \[0\]"):
        average(InProcessGroup(1).transport(0).open(1), torch.ones(3), [0])


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_bytes_follow_the_formula(workers: int) -> None:
    """2 (K - 1) / K x 4 bytes an element leave each worker."""
    length = 840  # every K divides it
    _, sent = averaged([torch.ones(length) for _ in range(workers)], [1] * workers)
    assert sent == [2 * (workers - 1) * length * 4 // workers] * workers


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(1000) for _ in range(3)]
    whole, _ = averaged(tensors, [1, 2, 3])
    monkeypatch.setattr(exchange, "CHUNK_BYTES", 4 * 7)
    pieces, _ = averaged(tensors, [1, 2, 3])
    assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))
