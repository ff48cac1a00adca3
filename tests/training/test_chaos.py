"""The schedule of faults, and who strikes whom when; nobody is struck here."""

from collections import Counter

import pytest

from muloco.failpoints import FAILPOINTS
from muloco.settings.fault_tolerance import Chaos
from muloco.training import chaos
from muloco.training.chaos import FaultInjector, FaultSchedule

KINDS = ("kill", "stop", "cut")


def schedule(workers: int = 4, ranks: int = 1, seed: int = 0, **chosen) -> FaultSchedule:
    return FaultSchedule(Chaos(interval_seconds=10.0, seed=seed, **chosen), workers=workers, ranks=ranks)


def test_all_workers_compute_the_same() -> None:
    one, other = ([schedule(ranks=2).fault(slot) for slot in range(100)] for _ in range(2))
    assert one == other
    assert one != [schedule(ranks=2, seed=1).fault(slot) for slot in range(100)]


def test_a_slot_is_an_interval_of_time() -> None:
    assert [schedule().slot(now) for now in (0.0, 9.99, 10.0, 1_800_000_005.0)] == [0, 0, 1, 180_000_000]


@pytest.mark.parametrize("first", [0, 7, 179_532_110])
def test_every_kind_strikes_in_every_phase_and_every_worker_is_struck(first: int) -> None:
    faults = [schedule(ranks=2).fault(slot) for slot in range(first, first + 60)]
    assert Counter((fault.kind, fault.phase) for fault in faults) == {(k, p): 2 for k in KINDS for p in FAILPOINTS}
    assert Counter(fault.worker for fault in faults[-first % 4 :][:56]) == {worker: 14 for worker in range(4)}
    assert {fault.rank for fault in faults} == {0, 1}
    assert {fault.kind for fault in map(schedule(kinds=("cut",)).fault, range(20))} == {"cut"}


class Worker:
    """A worker whose strikes are told instead of done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, who: tuple[int, int]):
        self.now = 0.0
        self.struck: list[tuple[float, str, str]] = []
        self._who = who
        monkeypatch.setattr(chaos.time, "time", lambda: self.now)
        monkeypatch.setattr(
            FaultInjector, "_strike", lambda _, kind, where: self.struck.append((self.now, kind, where))
        )
        self.restart()

    def restart(self) -> None:
        self._reach = FaultInjector(
            schedule=schedule(ranks=2, stop_seconds=1.0),
            worker=self._who[0],
            rank=self._who[1],
            earlier=[when for when, _, _ in self.struck],
            cut=lambda: None,
            tell=lambda kind, phase: None,
        )

    def live(self, start: float, end: float, *, joins: bool = False) -> None:
        """Reaches every phase each second."""
        for second in range(int(start), int(end)):
            for phase in FAILPOINTS:
                self.now = second + 0.5
                if joins or phase != "join":
                    self._reach(phase)


def slots_of(who: tuple[int, int], **having: str) -> list[int]:
    faults = {slot: schedule(ranks=2).fault(slot) for slot in range(200)}
    return [
        slot
        for slot, fault in faults.items()
        if (fault.worker, fault.rank) == who and all(getattr(fault, key) == value for key, value in having.items())
    ]


def test_the_victim_strikes_itself_once_a_slot_and_no_other_does(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(monkeypatch, (2, 1))
    worker.live(0, 2000)
    assert [int(when // 10) for when, _, _ in worker.struck] == slots_of((2, 1))


def test_one_that_came_back_is_not_struck_twice_in_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    slot = slots_of((1, 0), phase="commit")[0]
    worker = Worker(monkeypatch, (1, 0))
    worker.live(10 * slot, 10 * slot + 3)
    worker.restart()
    worker.live(10 * slot + 3, 10 * slot + 10)
    assert [phase for _, _, phase in worker.struck] == ["commit"]


def test_a_fault_while_joining_needs_a_worker_that_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed, and struck again when it joins, be that in a later slot."""
    who = (3, 1)
    slot = next(slot for slot in slots_of(who, phase="join") if slot + 1 not in slots_of(who))
    worker = Worker(monkeypatch, who)
    worker.live(10 * slot, 10 * slot + 1)
    worker.restart()
    worker.live(10 * slot + 11, 10 * slot + 20, joins=True)
    kind = schedule(ranks=2).fault(slot).kind
    assert [strike[1:] for strike in worker.struck] == [("kill", "inner_step"), (kind, "join")]
