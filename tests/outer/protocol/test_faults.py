"""A worker dies or loses contact at every point of a round: the survivors lose nothing and agree."""

from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest

from muloco.outer.in_process import InProcessGroup
from muloco.outer.wire.peer_group import PeerGroup

from ...covering import only
from ..faults import Died, Faulty, cut_at, die_at, die_in_process, lose_contact, lose_contact_in_vote
from ..over_torchft import connect, in_threads
from ..toy import Case, Result, assert_equals_reference, train
from ..workers import run_workers

CASE = Case(workers=3, fragments=2, interval=4, steps=11, alpha=0.5)
AT = 6
"""The third sync: fragment 0 for the second time."""


def in_process(case: Case, points: dict[int, tuple[int, str, Callable[[], None]]], **options) -> list[Result | None]:
    """Trains; `points[worker]` is the (step, point, act) of its fault. None for those who died."""
    group = InProcessGroup(case.workers)

    def work(worker: int) -> Result | None:
        transport = group.transport(worker)
        try:
            return train(case, worker, Faulty(transport, *points[worker]) if worker in points else transport, **options)
        except Died:
            return None

    return run_workers(group, work)


def over_torchft(
    case: Case, address: str, points: dict[int, tuple], *, group: Callable[[timedelta], PeerGroup], **options
) -> list[Result | None]:
    """The same at a lighthouse; `die_at` and `cut_at` in place of an act make that of the worker."""

    def work(worker: int) -> Result | None:
        transport = inner = connect(worker, address, exchange_seconds=10, quorum_seconds=300, group=group)
        if worker in points:
            step, point, act = points[worker]
            transport = Faulty(inner, step, point, act(inner) if act in (die_at, cut_at) else act)
        try:
            result = train(case, worker, transport, **options)
        except Died:
            return None
        inner.close()
        return result

    return in_threads(case.workers, work)


def present_until(case: Case, deaths: dict[int, int], counted: Sequence[int] = ()) -> Callable[[int], list[int]]:
    """Who takes part in the round after a step, where `deaths[worker]` is the step of its last round; in that round
    only the `counted` ones do."""

    def present(step: int) -> list[int]:
        return [k for k in range(case.workers) if step < deaths.get(k, 99) + (k in counted)]

    return present


def assert_survivors_agree(results, case: Case, present, *, retried: Sequence[int], what: object) -> None:
    survivors = [result for result in results if result is not None]
    assert_equals_reference(survivors, case.expected(present=present), what)
    for result in survivors:
        assert [step for step, sync in result.syncs if sync.attempts > 1] == list(retried), what


def exchanges_of_a_round() -> int:
    """How many exchanges a round of the case has, seen by worker 0."""
    group, seen = InProcessGroup(CASE.workers), []

    def work(worker: int) -> None:
        transport = Faulty(group.transport(worker), -1, "never", die_in_process)
        train(CASE, worker, transport)
        seen.append(transport.exchanges[-1])

    run_workers(group, work)
    assert len(set(seen)) == 1
    return seen[0]


def points_before_the_vote() -> list[str]:
    return [f"exchange {number}" for number in range(exchanges_of_a_round())] + ["vote"]


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("workers", [3, 4])
def test_death_before_the_vote_in_process(workers: int, delay: int) -> None:
    """The round is repeated by the survivors, from the pseudogradients that they had."""
    case = CASE.with_(workers=workers, delay=delay)
    for victim in (0, workers - 1):
        for point in points_before_the_vote():
            results = in_process(case, {victim: (AT - delay, point, die_in_process)})
            assert results[victim] is None and results.count(None) == 1
            present = present_until(case, {victim: AT - delay})
            assert_survivors_agree(results, case, present, retried=[AT], what=(point, victim))


@pytest.mark.parametrize("workers", [3, 4])
def test_death_after_the_vote_in_process(workers: int) -> None:
    """All votes are out: the round holds with the dead worker's share in it, and the next goes on without."""
    case = CASE.with_(workers=workers)
    for victim in (0, workers - 1):
        results = in_process(case, {victim: (AT, "voted", die_in_process)})
        present = present_until(case, {victim: AT}, counted=[victim])
        assert_survivors_agree(results, case, present, retried=[], what=victim)


def test_lost_contact_in_process() -> None:
    """Who lives is in the next attempt again, wherever its connection broke."""
    for victim in range(CASE.workers):
        for point in points_before_the_vote():
            results = in_process(CASE, {victim: (AT, point, lose_contact)})
            assert_survivors_agree(results, CASE, None, retried=[AT], what=(point, victim))


def test_all_but_one_die_in_process() -> None:
    case = CASE.with_(workers=4)
    points = {
        3: (2, "exchange 0", die_in_process),
        0: (6, "vote", die_in_process),
        2: (8, "exchange 1", die_in_process),
    }
    results = in_process(case, points)
    present = present_until(case, {worker: point[0] for worker, point in points.items()})
    assert_survivors_agree(results, case, present, retried=[2, 6, 8], what=points)


@pytest.mark.parametrize(("point", "victim"), only([(0, 0), (-1, 2)], [(0, 0), (-3, 2), (-2, 1), (-1, 2)]))
def test_death_before_the_vote(point: int, victim: int, lighthouse, group) -> None:
    """Before the headers, before the pieces go to their owners, before the means go back, and with all exchanged."""
    results = over_torchft(
        CASE,
        lighthouse(1, heartbeat_seconds=3),
        {victim: (AT, points_before_the_vote()[point], die_at)},
        group=group,
    )
    assert results[victim] is None and results.count(None) == 1
    assert_survivors_agree(results, CASE, present_until(CASE, {victim: AT}), retried=[AT], what=point)


def test_deaths_of_all_but_one_beside_the_inner_steps(lighthouse, group) -> None:
    """Four workers, tau = 1: each time another one dies in the thread that carries the round."""
    case = CASE.with_(workers=4, delay=1)
    points = {3: (3, "exchange 0", die_at), 0: (5, "exchange 1", die_at), 2: (7, "vote", die_at)}
    results = over_torchft(case, lighthouse(1, heartbeat_seconds=3), points, group=group)
    present = present_until(case, {worker: point[0] for worker, point in points.items()})
    assert_survivors_agree(results, case, present, retried=[4, 6, 8], what=points)


@pytest.mark.parametrize("workers", only([3], [3, 4]))
def test_death_after_the_vote(workers: int, lighthouse, group) -> None:
    """The last worker dies with its vote out; another one loses contact in the same vote and learns from a peer that
    the round has been committed."""
    case = CASE.with_(workers=workers)
    points = {workers - 1: (AT, "voted", die_at), 1: (AT, "voted", lose_contact_in_vote)}
    results = over_torchft(case, lighthouse(1, heartbeat_seconds=3), points, group=group)
    present = present_until(case, {workers - 1: AT}, counted=[workers - 1])
    assert_survivors_agree(results, case, present, retried=[], what=points)


@pytest.mark.parametrize("delay", [0, 1])
def test_lost_contact(delay: int, lighthouse, group) -> None:
    """Two workers lose contact, one before the exchanges and one in the vote of a later round: nobody is lost."""
    case = CASE.with_(delay=delay)
    points = {0: (4 - delay, "exchange 0", lose_contact), 2: (8 - delay, "voted", lose_contact_in_vote)}
    results = over_torchft(case, lighthouse(1), points, group=group)
    assert_survivors_agree(results, case, None, retried=[4], what=points)
