"""Questions to peers cost a bounded time, whoever of them is there; reminders come in time."""

import threading
import time
from collections.abc import Callable

import pytest

from muloco.outer.protocol.clock import ask_all, reminder
from muloco.outer.system_clock import SystemClock

CLOCK = SystemClock()


def test_who_answers_in_time_is_heard_and_who_does_not_keeps_nobody() -> None:
    """A peer that stands still, one that is gone, one that knows nothing, and two that answer."""
    for_ever = threading.Event()

    def ask(peer: str) -> bytes | None:
        if peer == "still":
            for_ever.wait(60)
        if peer == "gone":
            raise ConnectionRefusedError
        return None if peer == "ignorant" else peer.encode()

    began = time.monotonic()
    peers = ["still", "gone", "ignorant", "a", "b"]
    assert ask_all(CLOCK, peers, ask, seconds=2.0) == {"a": b"a", "b": b"b"}
    assert time.monotonic() - began < 30, "it waits for the one that stands still"
    for_ever.set()
    assert ask_all(CLOCK, [], ask, seconds=1.0) == {}


class Watched(SystemClock):
    """Knows the threads that it has started."""

    def __init__(self) -> None:
        self.started: list[threading.Thread] = []

    def start(self, work: Callable[[], object], name: str) -> threading.Thread:
        self.started.append(super().start(work, name))
        return self.started[-1]


@pytest.mark.parametrize("late", [False, True])
def test_a_reminder_comes_once_and_only_if_the_wait_is_long(late: bool) -> None:
    clock, reminded = Watched(), threading.Event()
    with reminder(clock, 0.0 if late else 1000.0, reminded.set):
        assert not late or reminded.wait(60)
    for thread in clock.started:
        thread.join()
    assert len(clock.started) == 1 and reminded.is_set() == late
