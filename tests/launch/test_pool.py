"""Who is started again when, and when a run is over."""

import signal
from dataclasses import dataclass, field

import pytest

from muloco.launch import pool as pool_module
from muloco.launch.pool import (
    FIRST_BACK_OFF,
    LAST_SECONDS,
    LONGEST_BACK_OFF,
    SILENT_SECONDS,
    STABLE_SECONDS,
    WorkerPool,
    recoverable,
)

KILLED = "killed by SIGKILL"


@dataclass
class FakeChild:
    """A process that ends when the test says so."""

    name: str
    started: float
    status: int | None = None
    why: str = ""
    asked: int = 0
    silent_seconds: float = 0.0
    log: str = "logs/worker.log"

    def reason(self) -> str:
        return self.why

    def ask_to_stop(self) -> None:
        self.asked += 1

    def fail(self, status: int, why: str = "") -> None:
        self.status, self.why = status, why

    def end(self, grace_seconds: float) -> None:
        self.fail(-2, "killed by SIGINT")


@dataclass
class Clock:
    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class House:
    """A pool of fake processes, on a clock that the test sets."""

    clock: Clock
    started: list[FakeChild] = field(default_factory=list)

    def pool(self, workers: int, *, least: int = 1, restarts: int = 3) -> WorkerPool:
        return WorkerPool(self.start, workers=workers, least=least, restarts=restarts)

    def start(self, worker: int) -> FakeChild:
        self.started.append(FakeChild(f"worker {worker}", self.clock.now))
        return self.started[-1]

    def watch(self, pool: WorkerPool, seconds: float) -> bool:
        """Watches for so long, or until the run is over."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            if pool.watch():
                return True
            self.clock.now += 0.25
        return pool.watch()


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    clock = Clock()
    monkeypatch.setattr(pool_module, "time", clock)
    return House(clock)


def test_a_lost_worker_is_started_again_later_and_later(house: House) -> None:
    pool = house.pool(2, restarts=8)
    waits = []
    for _ in range(8):
        lost_at = house.clock.now
        pool.children[1].fail(-9, KILLED)
        assert not house.watch(pool, LONGEST_BACK_OFF + 1)
        waits.append(round(pool.children[1].started - lost_at))
        house.clock.now = pool.children[1].started
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert pool.restarts == 8 and pool.children[0].status is None


def test_one_that_ran_for_long_begins_anew(house: House) -> None:
    pool = house.pool(2, restarts=1)
    for _ in range(5):
        house.clock.now += STABLE_SECONDS + 1
        pool.children[1].fail(-9, KILLED)
        assert not house.watch(pool, FIRST_BACK_OFF + 1)
        assert pool.children[1].status is None
    assert pool.restarts == 5


def test_the_others_go_on_without_one_that_is_given_up_as_long_as_they_are_enough(house: House) -> None:
    pool = house.pool(3, least=2, restarts=1)
    for _ in range(2):
        pool.children[2].fail(-9, KILLED)
        assert not house.watch(pool, 10)
    assert pool.restarts == 1 and len(house.started) == 4, "it is given up"
    pool.take_note([{"worker": 0, "step": 1, "loss": 9.0}])
    for _ in range(2):
        pool.children[0].fail(1, "TransportError: nobody there")
        over = house.watch(pool, 10)
    assert not over, "one is left of two, and has a state to save"
    pool.children[1].fail(1, "TransportError: sync after step 8: no quorum")
    assert house.watch(pool, 1) and len(house.started) == 5
    assert {child.name for child in pool.failures()} == {"worker 0", "worker 1", "worker 2"}


def test_what_comes_back_however_often_it_is_tried_ends_the_run(house: House) -> None:
    pool = house.pool(3)
    pool.children[0].fail(-9, KILLED)
    assert not house.watch(pool, 0.5)
    pool.children[1].fail(3, "NonFiniteGradient: NaN or Inf in the gradient")
    assert house.watch(pool, 0.5) and len(house.started) == 3
    assert [child.name for child in pool.failures()] == ["worker 1"]


def test_the_run_goes_on_when_all_are_lost_at_once(house: House) -> None:
    pool = house.pool(2)
    for child in pool.children:
        child.fail(-9, KILLED)
    assert not house.watch(pool, FIRST_BACK_OFF + 1)
    assert all(child.status is None for child in pool.children)


def test_the_end_waits_for_those_who_run_but_starts_nobody(house: House) -> None:
    pool = house.pool(3)
    pool.children[2].fail(-9, KILLED)
    assert not pool.watch()
    pool.children[0].fail(0)
    assert not pool.watch() and not house.watch(pool, 10)
    pool.children[1].fail(-9, KILLED)
    assert house.watch(pool, 1) and len(house.started) == 3
    assert pool.failures() == []


def test_a_worker_that_does_not_find_the_end_is_not_waited_for_long(house: House) -> None:
    pool = house.pool(2)
    pool.children[0].fail(0)
    assert not house.watch(pool, LAST_SECONDS - 1)
    assert house.watch(pool, 2)


def test_nobody_is_started_again_once_all_are_asked_to_leave(house: House) -> None:
    pool = house.pool(2)
    pool.stop()
    pool.stop()
    assert [child.asked for child in pool.children] == [1, 1]
    pool.children[0].fail(0)
    pool.children[1].fail(128 + signal.SIGUSR1, "SignalException: Process got signal: 10")
    assert house.watch(pool, 1) and len(house.started) == 2
    assert pool.failures() == []


def test_one_that_is_silent_for_long_after_the_wish_to_stop_is_ended(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    pool = house.pool(3)
    pool.stop()
    pool.children[0].fail(0)
    pool.children[1].silent_seconds = pool.children[2].silent_seconds = SILENT_SECONDS - 1
    assert not house.watch(pool, 1)
    pool.children[1].silent_seconds, pool.children[2].silent_seconds = SILENT_SECONDS + 1, 0
    assert not house.watch(pool, 1)
    assert "worker 1 was asked to stop" in caplog.text and "worker 2" not in caplog.text
    pool.children[2].fail(0)
    assert house.watch(pool, 1) and [child.name for child in pool.failures()] == ["worker 1"]


def test_one_that_fails_twice_in_the_same_way_before_its_first_step_ends_the_run(house: House) -> None:
    pool = house.pool(2, restarts=10)
    pool.children[1].fail(1, "RuntimeError: no device at port 4711")
    assert not house.watch(pool, FIRST_BACK_OFF + 1)
    pool.children[1].fail(1, "RuntimeError: no device at port 815")
    assert house.watch(pool, 1) and len(house.started) == 3
    assert [child.name for child in pool.failures()] == ["worker 1"] and not pool.may_pass()


@pytest.mark.parametrize(
    ("reasons", "line"),
    [
        (["RuntimeError: a", "RuntimeError: b"], {}),
        ([KILLED, KILLED], {}),
        (["RuntimeError: a", "RuntimeError: a"], {"loss": 9.0}),
        (["RuntimeError: a", "RuntimeError: a"], {"event": "sync"}),
    ],
)
def test_one_that_may_do_better_is_started_again(house: House, reasons: list[str], line: dict) -> None:
    pool = house.pool(2, restarts=10)
    pool.take_note([{"worker": 1, "step": 0, "validation_loss": 9.0}])
    if line:
        pool.take_note([{"worker": 1, "step": 3, **line}])
    for reason in reasons:
        pool.children[1].fail(1, reason)
        assert not house.watch(pool, 2 * FIRST_BACK_OFF + 1)
    assert pool.children[1].status is None and len(house.started) == 4


# status of a worker that was lost: whether the worker can be started again, and whether the run can be resumed
LOST = {-9: (True, True), 1: (True, True), 2: (False, False), 3: (False, False), 4: (False, True)}


@pytest.mark.parametrize("status", LOST)
def test_which_failures_may_pass(house: House, status: int) -> None:
    child = FakeChild("worker 0", 0.0, status=status)
    pool = house.pool(2, restarts=0)
    pool.children[0].fail(-9, KILLED)
    pool.children[1].fail(status, "whatever it says")
    assert house.watch(pool, 1)
    assert (recoverable(child), pool.may_pass()) == LOST[status]


def test_who_is_away_and_for_how_long(house: House) -> None:
    pool = house.pool(3, restarts=1)
    assert pool.away() == {}
    house.started[1].fail(-9, KILLED)
    house.started[2].fail(3, "ValueError: no")
    pool.watch()
    assert pool.away() == {1: FIRST_BACK_OFF, 2: None}
    house.clock.now += FIRST_BACK_OFF / 4
    assert pool.away()[1] == pytest.approx(0.75 * FIRST_BACK_OFF)
    house.clock.now += FIRST_BACK_OFF
    pool.watch()
    assert pool.away() == {2: None}
