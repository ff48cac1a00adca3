"""One process at a time, on a file system that has no locks."""

import errno
import fcntl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from muloco.errors import UserError
from muloco.runs import lock
from muloco.runs.lock import SILENT_SECONDS, only_one

HOLDER = "process 4711 on elsewhere, since 2026-01-01 00:00:00"


@dataclass
class Clock:
    """Time that passes while somebody sleeps, and what happens then."""

    meanwhile: Callable[[float], None] = lambda now: None
    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now

    def strftime(self, form: str) -> str:
        return time.strftime(form)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile(self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lock, "time", clock)
    return clock


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, how: int) -> None:
        raise OSError(request.param, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)


def beats(file: Path) -> Callable[[float], None]:
    """A live holder on another machine."""

    def beat(now: float) -> None:
        draft = file.with_name("draft")
        draft.write_text(f"{HOLDER}\nmark {now}\n")
        draft.replace(file)  # never half written, as a holder does it

    return beat


def test_a_live_holder_is_left_alone(tmp_path: Path, clock: Clock, no_locks: None) -> None:
    file = tmp_path / ".lock"
    clock.meanwhile = beats(file)
    clock.meanwhile(0)
    with pytest.raises(UserError, match=f"busy .{HOLDER}.$"), only_one(file, "busy"):
        raise AssertionError("two holders")
    assert file.read_text().startswith(HOLDER) and list(tmp_path.iterdir()) == [file]


def test_a_dead_holder_is_replaced_after_a_minute(tmp_path: Path, clock: Clock, no_locks: None) -> None:
    file, began = tmp_path / ".lock", clock.now
    beats(file)(0)
    with only_one(file, "busy"):
        assert SILENT_SECONDS < clock.now - began < SILENT_SECONDS + 10
        assert not file.read_text().startswith(HOLDER)
    assert not list(tmp_path.iterdir())


def test_of_two_that_find_no_holder_one_is_refused(tmp_path: Path, clock: Clock, no_locks: None) -> None:
    """The other one writes its sign of life just behind this one's."""
    file = tmp_path / ".lock"
    clock.meanwhile = beats(file)
    with pytest.raises(UserError, match=HOLDER), only_one(file, "busy"):
        raise AssertionError("two holders")
    assert file.read_text().startswith(HOLDER)


def test_a_holder_gives_signs_of_life_and_ends_when_it_has_lost_the_lock(
    tmp_path: Path, clock: Clock, no_locks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    file = tmp_path / ".lock"

    def taken_over() -> bool:
        """As if the holder had been away for so long that another one has taken over, and gives signs of life."""
        beats(file)(0)
        return False

    with pytest.raises(KeyboardInterrupt), only_one(file, "busy"):
        first = file.read_text()
        until(lambda: file.read_text() != first)
        until(taken_over)
    assert file.read_text().startswith(HOLDER), "it belongs to the other one"


def test_a_holder_whose_file_is_deleted_holds_it_again(
    tmp_path: Path, clock: Clock, no_locks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    file = tmp_path / ".lock"
    with only_one(file, "busy"):
        file.unlink()
        until(file.exists)


def test_one_that_waits_takes_over_from_one_that_ends(tmp_path: Path, clock: Clock, no_locks: None) -> None:
    file, began = tmp_path / ".lock", clock.now

    def ends_after_twenty_seconds(now: float) -> None:
        if now < began + 20:
            beats(file)(now)
        elif now < began + 21:
            file.unlink(missing_ok=True)

    clock.meanwhile = ends_after_twenty_seconds
    beats(file)(0)
    with only_one(file, "busy", patience=30):
        assert began + 20 < clock.now < began + 30


def test_with_locks_one_that_waits_gives_up_in_the_end(tmp_path: Path, clock: Clock) -> None:
    file, began = tmp_path / ".lock", clock.now
    with only_one(file, "busy"):
        with pytest.raises(UserError, match="busy .process"), only_one(file, "busy", patience=30):
            raise AssertionError("two holders")
        assert clock.now - began > 30
    with only_one(file, "busy"):
        pass


def test_one_that_waits_for_the_children_of_a_dead_holder_is_named(tmp_path: Path, clock: Clock) -> None:
    file, seen = tmp_path / ".lock", []
    file.write_text(f"{HOLDER}\n")
    clock.meanwhile = lambda now: seen.append(file.read_text())
    with only_one(file, "busy", grace=10):
        assert seen == [file.read_text()] and HOLDER not in seen[0]


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what() and time.monotonic() < deadline:
        time.sleep(0.01)
