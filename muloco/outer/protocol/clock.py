"""Time, as the protocol uses it: a clock, pauses, and work beside the caller's own.

`muloco.outer.system_clock` has the implementation for processes. Nothing else in this room waits, except for a `Wire`.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from functools import partial
from types import TracebackType
from typing import Protocol, TypeVar

Peer = TypeVar("Peer")
Answer = TypeVar("Answer")


class Task(Protocol):
    """Work that has been started."""

    def join(self) -> None:
        """Waits until the work is done."""
        ...


class Condition(Protocol):
    """A lock, as a context, and a place to wait for what others change while they hold it."""

    def __enter__(self) -> bool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Waits until the predicate holds, at most `timeout` seconds, and returns whether it does. The caller holds the
        lock, which is free meanwhile. The predicate is evaluated at once, and after each `notify_all`."""
        ...

    def notify_all(self) -> None:
        """Lets those that wait evaluate their predicates again, once the caller gives the lock free."""
        ...


class Clock(Protocol):
    """What a worker needs of time."""

    def now(self) -> float:
        """Returns the seconds since some moment in the past. They never decrease."""
        ...

    def sleep(self, seconds: float) -> None:
        """Returns after so many seconds; other work goes on meanwhile."""
        ...

    def start(self, work: Callable[[], object], name: str) -> Task:
        """Starts some work beside the caller's. It may run at any time until it is done, and ends with the process. It
        must not raise."""
        ...

    def condition(self) -> Condition:
        """Returns a new condition for the work of this clock."""
        ...


def ask_all(
    clock: Clock, peers: Collection[Peer], ask: Callable[[Peer], Answer | None], *, seconds: float | None = None
) -> dict[Peer, Answer]:
    """Asks several peers at once and returns the answers that arrive in time.

    Args:
        clock: runs the questions.
        peers: the peers to ask.
        ask: asks one peer; it returns None or raises OSError if there is no answer. It runs beside the others, so a
            late answer delays nothing.
        seconds: time limit for all peers together; None: all of them are waited for.

    Returns:
        the answers by peer, in the order of their arrival.
    """
    answers: dict[Peer, Answer] = {}
    asked: list[Peer] = []
    changed = clock.condition()

    def ask_one(peer: Peer) -> None:
        answer = None
        with contextlib.suppress(OSError):
            answer = ask(peer)
        with changed:
            asked.append(peer)
            if answer is not None:
                answers[peer] = answer
            changed.notify_all()

    for peer in peers:
        clock.start(partial(ask_one, peer), f"question to {peer}")
    with changed:
        changed.wait_for(lambda: len(asked) == len(peers), seconds)
        return dict(answers)


@contextlib.contextmanager
def reminder(clock: Clock, seconds: float, remind: Callable[[], object]) -> Iterator[None]:
    """A context that calls `remind` once if it is not left within so many seconds."""
    left, changed = False, clock.condition()

    def watch() -> None:
        with changed:
            if changed.wait_for(lambda: left, seconds):
                return
        remind()

    clock.start(watch, "reminder")
    try:
        yield
    finally:
        with changed:
            left = True
            changed.notify_all()
