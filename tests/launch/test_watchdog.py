"""Which workers count as standing still, and what becomes of them."""

from dataclasses import dataclass, field

import pytest

from muloco.launch.watchdog import PATIENCE, STACK_SECONDS, Watchdog
from muloco.runs.states import State
from muloco.training.pulse import Sign

LIMIT = 100.0


@dataclass
class FakeChild:
    name: str = "worker 1"
    log: str = "logs/worker-001.log"
    status: int | None = None
    signs: int = 0
    sign: Sign | None = None
    done: list[str] = field(default_factory=list)

    def beat(self, state: State, step: int = 1) -> None:
        self.signs += 1
        self.sign = Sign(step, str(state))

    def ask_for_stacks(self) -> None:
        self.done.append("stacks")

    def end(self, grace_seconds: float, *, because: str) -> None:
        self.done.append(because)
        self.status = -9


@dataclass
class Kennel:
    """A watchdog over one process, on a clock of its own."""

    child: FakeChild = field(default_factory=FakeChild)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.dog = Watchdog(LIMIT, clock=lambda: self.now)

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until and self.child.status is None:
            self.now += 0.25
            self.dog.look([self.child])  # type: ignore[list-item]

    def step(self, seconds: float, times: int = 3) -> None:
        for _ in range(times):
            self.child.beat(State.TRAINING)
            self.wait(seconds)
        self.child.beat(State.TRAINING, step=12)
        self.wait(0.25)


def test_a_worker_that_stands_still_shows_its_stacks_and_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    kennel = Kennel()
    kennel.step(1)
    kennel.wait(LIMIT - 1)
    assert kennel.child.done == []
    kennel.wait(1.5)
    assert kennel.child.done == ["stacks"]
    for part in ("worker 1", "state: training, after step 12", "logs/worker-001.log"):
        assert part in caplog.text
    kennel.wait(STACK_SECONDS + 1)
    assert kennel.child.done == ["stacks", "stood still for 102 s (state: training, after step 12)"]
    assert len(caplog.records) == 1


def test_a_worker_whose_steps_are_long_has_more_time() -> None:
    kennel = Kennel()
    kennel.step(10)
    kennel.wait(2 * LIMIT - 5)
    assert kennel.child.done == [], "20 of its steps take 200 s"
    kennel.wait(10)
    assert kennel.child.done[0] == "stacks"


@pytest.mark.parametrize("state", [State.COMPILING, State.VALIDATING, State.SAVING, State.BUILDING, State.LOADING])
def test_what_takes_long_has_its_time(state: State) -> None:
    kennel = Kennel()
    kennel.step(1)
    kennel.child.beat(state)
    kennel.wait(PATIENCE * LIMIT - 1)
    assert kennel.child.done == []
    kennel.wait(10)
    assert kennel.child.status == -9


def test_the_first_step_has_its_time() -> None:
    kennel = Kennel()
    kennel.child.beat(State.TRAINING, step=0)
    kennel.wait(PATIENCE * LIMIT - 1)
    assert kennel.child.done == []


@pytest.mark.parametrize("state", [State.MEETING, State.SYNCING, State.EVALUATING, State.PREPARING, State.FINISHED])
def test_a_worker_that_waits_for_others_does_not_stand_still(state: State) -> None:
    kennel = Kennel()
    kennel.step(1)
    kennel.child.beat(state)
    kennel.wait(30 * LIMIT)
    assert kennel.child.done == []


def test_one_that_goes_on_in_time_is_left_alone() -> None:
    kennel = Kennel()
    kennel.step(1)
    for _ in range(3):
        kennel.wait(LIMIT + 1)
        kennel.child.beat(State.TRAINING)
        kennel.wait(1)
    assert kennel.child.done == ["stacks"] * 3 and kennel.child.status is None


def test_the_time_in_which_the_supervisor_itself_was_stopped_does_not_count() -> None:
    kennel = Kennel()
    kennel.step(1)
    kennel.now += 100 * LIMIT
    kennel.wait(LIMIT / 2)
    assert kennel.child.done == []


def test_a_new_process_begins_anew() -> None:
    kennel = Kennel()
    kennel.step(1)
    kennel.wait(LIMIT + 10)
    assert kennel.child.status == -9
    kennel.child = FakeChild()
    kennel.wait(20 * PATIENCE * LIMIT)
    assert kennel.child.done == [], "it has not given its first sign of life yet"
