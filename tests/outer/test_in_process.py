"""Threads that take turns: the order of all that happens, lost workers, deadlocks and random numbers."""

import pytest
import torch

from muloco.outer import TransportError
from muloco.outer.in_process import GroupEnded, InProcessGroup

from .workers import run_workers


def test_turns_come_in_the_same_order_every_time() -> None:
    """Each runs until it waits for the others; then the next one that can go on."""

    def events() -> list[str]:
        log, group = [], InProcessGroup(3)

        def work(worker: int) -> None:
            transport = group.transport(worker)
            for step in (1, 2):
                log.append(f"{worker} computes {step}")
                this_round = transport.open(step)
                log.append(f"{worker} meets {step}")
                data = torch.full((1,), worker, dtype=torch.uint8)
                got = this_round.exchange([data] * 3, [1] * 3)
                assert [int(part) for part in got] == [0, 1, 2]
                assert this_round.vote(True)

        run_workers(group, work)
        return log

    first = events()
    assert first[:3] == ["0 computes 1", "1 computes 1", "2 computes 1"]
    assert all(events() == first for _ in range(20))


def test_what_two_threads_cannot_set_up_at_once_is_there_before_they_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's guard of CUDA devices; see `InProcessGroup`."""
    calls: list[str] = []
    monkeypatch.setattr(torch._C, "_ensureCUDADeviceGuardSet", lambda: calls.append("guard"))
    run_workers(InProcessGroup(2), lambda worker: calls.append("work"))
    assert calls == ["guard", "work", "work"]


def test_only_one_worker_runs_at_a_time() -> None:
    group, running = InProcessGroup(4), []

    def work(worker: int) -> None:
        transport = group.transport(worker)
        for step in range(5):
            running.append(worker)
            assert running == [worker]
            torch.randn(100).sum()
            running.remove(worker)
            transport.open(step).vote(True)

    run_workers(group, work)


def test_a_worker_that_leaves_blocks_nobody() -> None:
    """By an error or by its end, before a round, in it, and before its vote."""
    group = InProcessGroup(4)

    def work(worker: int) -> list[object]:
        transport = group.transport(worker)
        if worker == 3:
            return []
        seen: list[object] = [transport.open(1).vote(True)]
        this_round = transport.open(2)
        if worker == 2:
            return []
        try:
            this_round.exchange([torch.zeros(1, dtype=torch.uint8)] * 3, [1] * 3)
        except TransportError as error:
            seen.append(str(error))
        seen.append(this_round.vote(True))
        this_round = transport.open(3)
        seen.append(this_round.size)
        if worker == 1:
            raise ArithmeticError("this worker fails")
        seen += [this_round.vote(True), transport.open(4).size]
        results.append(seen)
        return seen

    results: list[list[object]] = []
    with pytest.raises(ArithmeticError, match="this worker fails"):
        run_workers(group, work)
    assert results == [[True, "worker 2 did not come to the exchange", False, 2, False, 1]]
    assert group.present == set()


def test_a_vote_against_frees_who_waits_in_the_exchange() -> None:
    group = InProcessGroup(2)

    def work(worker: int) -> bool:
        this_round = group.transport(worker).open(1)
        if worker == 0:
            with pytest.raises(TransportError, match="worker 1 did not come"):
                this_round.exchange([torch.zeros(1, dtype=torch.uint8)] * 2, [1, 1])
        return this_round.vote(worker == 0)

    assert run_workers(group, work) == [False, False]


def test_a_deadlock_is_reported() -> None:
    """One waits in a round for another one, which has gone on to the next round."""
    group = InProcessGroup(2)

    def work(worker: int) -> None:
        transport = group.transport(worker)
        this_round = transport.open(1)
        if worker == 0:
            this_round.exchange([torch.zeros(1, dtype=torch.uint8)] * 2, [1, 1])
        else:
            transport.open(2)

    with pytest.raises(TransportError, match="every worker of this process waits for another one"):
        run_workers(group, work)


def test_random_numbers_of_a_worker_are_its_own() -> None:
    """Those that it would draw alone, whatever the others draw in between."""

    def draws(worker: int, meet) -> list[float]:
        torch.manual_seed(worker)
        numbers = []
        for step in range(4):
            numbers += torch.randn(worker + 1).tolist()
            meet(step)
        return numbers

    group = InProcessGroup(3)
    together = run_workers(
        group, lambda worker: draws(worker, lambda step: group.transport(worker).open(step).vote(True))
    )
    assert together == [draws(worker, lambda step: None) for worker in range(3)]


def test_a_group_has_at_least_one_worker() -> None:
    with pytest.raises(ValueError, match="at least one worker; got 0"):
        InProcessGroup(0)


def test_the_end_of_a_group_ends_all_its_workers() -> None:
    """Those that wait in a round, one that waits to be begun, and one that goes on until it next waits for others."""
    group, log = InProcessGroup(4), []

    def work(worker: int) -> None:
        transport = group.transport(worker)
        log.append(worker)
        if worker == 2:
            group.end()
        transport.open(1)
        log.append("met")

    with pytest.raises(GroupEnded):
        run_workers(group, work)
    assert log == [0, 1, 2] and group.present == set()
