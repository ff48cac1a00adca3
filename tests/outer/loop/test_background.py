"""A result that comes later: when the work runs, how often, and what becomes of its errors."""

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest
import torch

from muloco.outer.loop import background
from muloco.outer.loop.background import Pending

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


class Stream:
    """A stream of a fake accelerator, which records the calls in order."""

    made: list["Stream"] = []

    def __init__(self, device: torch.device):
        self.device, self.events = device, []
        self.made.append(self)

    def __enter__(self) -> None:
        self.events.append("enter")

    def __exit__(self, *_) -> None:
        self.events.append("exit")

    def wait_stream(self, other: "Stream") -> None:
        self.events.append(("waits for", other))

    def synchronize(self) -> None:
        self.events.append("synchronize")


@pytest.fixture
def main_stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    """The current stream of the training thread."""
    monkeypatch.setattr(Stream, "made", [])
    main = Stream(torch.device("cuda", 0))
    monkeypatch.setattr(torch, "Stream", Stream)
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: None)
    background._side_stream.cache_clear()
    yield main
    background._side_stream.cache_clear()


def test_all_rounds_of_a_device_share_one_stream(main_stream: Stream) -> None:
    """It waits for the training thread's first, and the thread for it in the end."""
    for number in range(40):
        pending = Pending(lambda number=number: number, concurrent=True, device=torch.device("cuda", 0))
        assert pending.result() == number
    assert Pending(lambda: 7, concurrent=True, device=torch.device("cuda", 1)).result() == 7
    main, side, other = Stream.made
    assert side.events == 40 * [("waits for", main), "enter", "synchronize", "exit"]
    assert other.device == torch.device("cuda", 1)


def test_the_device_is_waited_for_after_an_error_too(main_stream: Stream) -> None:
    def work() -> None:
        raise KeyError("the work failed")

    with pytest.raises(KeyError):
        Pending(work, concurrent=True, device=torch.device("cuda", 0)).result()
    assert Stream.made[1].events[-2:] == ["synchronize", "exit"]


@pytest.mark.parametrize("concurrent", [False, True])
def test_what_the_work_needed_is_let_go_when_it_is_done(concurrent: bool) -> None:
    """The work is also released before the result is used."""
    needed = torch.zeros(3)
    there = weakref.ref(needed)
    pending = Pending(lambda needed=needed: float(needed.sum()), concurrent=concurrent, device=CPU)
    del needed
    assert pending.result() == 0.0
    gc.collect()
    assert there() is None


def test_work_on_the_training_thread_has_no_stream_of_its_own(main_stream: Stream) -> None:
    assert Pending(lambda: 3, concurrent=False, device=torch.device("cuda", 0)).result() == 3
    assert Stream.made == [main_stream]
