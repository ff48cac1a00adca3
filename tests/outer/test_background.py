"""A result that comes later: when the work runs, how often, and what becomes of its errors."""

import threading

import pytest
import torch

from muloco.outer.background import Pending

CPU = torch.device("cpu")
SECONDS = 300


def test_deferred_work_runs_once_when_it_is_asked_for() -> None:
    calls = []
    pending = Pending(lambda: calls.append(threading.current_thread()) or len(calls), concurrent=False, device=CPU)
    assert calls == []
    assert [pending.result(), pending.result()] == [1, 1]
    assert calls == [threading.current_thread()]


def test_concurrent_work_runs_at_once_beside_its_owner() -> None:
    """It waits for what its owner does later, without being asked for."""
    begun, go_on = threading.Event(), threading.Event()

    def work() -> threading.Thread:
        begun.set()
        assert go_on.wait(SECONDS)
        return threading.current_thread()

    pending = Pending(work, concurrent=True, device=CPU)
    assert begun.wait(SECONDS)
    go_on.set()
    assert pending.result() is pending.result() is not threading.current_thread()
    assert pending.seconds > 0


@pytest.mark.parametrize("concurrent", [False, True])
def test_errors_arrive_with_the_result_every_time(concurrent: bool) -> None:
    def work() -> None:
        raise KeyError("the work failed")

    pending = Pending(work, concurrent=concurrent, device=CPU)
    for _ in range(2):
        with pytest.raises(KeyError, match="the work failed"):
            pending.result()


def test_what_is_there_already() -> None:
    assert Pending.of(5).result() == 5
