"""Workers of several ranks: they do the same, and end together; stopping on request, NaN, and shared work."""

import math
from collections.abc import Callable

import pytest

from tests.simulation.faults import EVERYONE, LIGHTHOUSE, Fault, Schedule
from tests.simulation.invariants import Ledger
from tests.simulation.lighthouse import Lighthouse
from tests.simulation.network import Network
from tests.simulation.ranks import Ranks
from tests.simulation.run import Outcome
from tests.simulation.shrink import kind_of, shrink
from tests.simulation.toy import Shape
from tests.simulation.world import Process, Violation, World

SHAPE = Shape(workers=3, interval=2, rounds=4, ranks=2, save_every=2)


def _run(fault: Fault, shape: Shape = SHAPE, seed: int = 1) -> Outcome:
    outcome = Schedule(seed, shape, (fault,)).run()
    assert outcome.failure is None, outcome.failure
    return outcome


def _says(outcome: Outcome, text: str) -> list[str]:
    """Returns who says something with a text."""
    return [who for _, who, what in outcome.story if text in what]


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("delay", [0, 1])
def test_without_faults_all_ranks_apply_all_rounds(ranks: int, delay: int) -> None:
    shape = Shape(workers=2, interval=2, rounds=3, delay=delay, ranks=ranks, shares=True)
    outcome = Schedule(1, shape, ()).run()
    assert outcome.failure is None and outcome.end == "done"
    together = [(who, what) for _, who, what in outcome.story if "of workers 0 (" in what and ", 1 (" in what]
    applied = [who for who, _ in together]
    assert len(set(applied)) == 2 * ranks and len(applied) == 2 * ranks * shape.rounds


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_takes_its_worker_with_it(rank: int) -> None:
    outcome = _run(Fault(kind="kill", worker=1, rank=rank, point=3, phase="vote", times=2, seconds=2.0, detail="none"))
    assert len(_says(outcome, "is killed")) == 1
    assert _says(outcome, "starts afresh").count("worker 1") == _says(outcome, "starts afresh").count("worker 1 rank 1")
    assert {"worker 1", "worker 1 rank 1"} <= set(_says(outcome, "goes on from another worker's state"))


@pytest.mark.parametrize("other", [0, LIGHTHOUSE, EVERYONE])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_is_cut_off_alone(rank: int, other: int) -> None:
    fault = Fault(
        kind="cut", worker=1, rank=rank, point=2, phase="scatter", times=2, other=other, seconds=9.0, detail="both"
    )
    assert _run(fault).commits > 2


def test_the_others_wait_for_a_rank_that_is_stopped() -> None:
    outcome = _run(Fault(kind="pause", worker=1, rank=1, point=2, phase="headers", times=2, seconds=3.0))
    assert outcome.commits == SHAPE.rounds + 1 and not _says(outcome, "starts with")


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("delay", [0, 1])
def test_all_stop_after_the_round_in_which_one_asks(ranks: int, delay: int) -> None:
    shape = Shape(workers=3, interval=3, rounds=6, delay=delay, ranks=ranks)
    outcome = _run(Fault(kind="stop", worker=2, rank=ranks - 1, point=1, phase="open", times=2), shape)
    assert outcome.commits < 1 + shape.rounds
    assert len(_says(outcome, "ends with status 0")) == 3 * ranks


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("ranks", "rank"), [(1, 0), (2, 0), (2, 1)])
def test_what_is_not_finite_ends_all_alike(value: float, ranks: int, rank: int) -> None:
    shape = Shape(workers=3, interval=2, rounds=4, ranks=ranks)
    outcome = _run(Fault(kind="spoil", worker=1, rank=rank, point=1, phase="commit", times=1, amount=value), shape)
    assert outcome.end == "failed as defined"
    ended = _says(outcome, "ends with status 3: NonFinitePseudogradient")
    assert {who.partition(" rank")[0] for who in ended} == {"worker 0", "worker 1", "worker 2"}


def test_workers_that_find_no_others_save_their_state() -> None:
    fault = Fault(kind="lighthouse", worker=0, point=1, phase="scatter", times=2, seconds=150.0)
    outcome = _run(fault, Shape(workers=3, interval=2, rounds=4))
    assert _says(outcome, "has found too few others, and saves step 6")
    assert outcome.end == "done" and _says(outcome, "starts with the checkpoint of step 6")


def test_a_failing_schedule_of_several_ranks_is_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muloco.outer.protocol.transaction._refuse_non_finite", lambda headers: None)
    spoil = Fault(kind="spoil", worker=0, point=1, phase="commit", times=1, amount=math.inf)
    failing = Schedule(1, Shape(workers=2, interval=2, rounds=2, ranks=3, shares=True), (spoil,))
    short = shrink(failing)
    assert kind_of(failing.run()).startswith("Violation: a pseudogradient that is not finite")
    assert kind_of(short.run()) == kind_of(failing.run())
    assert short.shape.ranks == 1 and not short.shape.shares


def _two() -> tuple[World, Ranks]:
    world = World(1)
    network = Network(world)
    lighthouse = Lighthouse(network, least=1, join_timeout=20.0, beat_timeout=3.0)
    processes = [Process(world, f"rank {rank}", f"m0.{rank}") for rank in range(2)]
    return world, Ranks(network, lighthouse, Ledger(Shape()), 0, processes)


def test_ranks_exchange_what_they_bring() -> None:
    world, ranks = _two()
    given = []

    def work(rank: int) -> Callable[[], None]:
        return lambda: given.append([ranks.gather("here", rank, (rank, number), 5.0) for number in range(2)])

    for rank, process in enumerate(ranks.processes):
        world.spawn(process, work(rank))
    world.run()
    assert given == [[[(0, 0), (1, 0)], [(0, 1), (1, 1)]]] * 2


def test_a_rank_that_does_not_come_is_not_waited_for_for_ever() -> None:
    world, ranks = _two()
    world.spawn(ranks.processes[1], lambda: ranks.gather("here", 1, 0, 5.0))
    world.run()
    assert isinstance(world.failure, TimeoutError) and 5.0 <= world.now < 5.1


def test_a_rank_that_hangs_is_noticed() -> None:
    world, ranks = _two()
    world.spawn(ranks.processes[0], lambda: ranks.gather("here", 0, 0, 130.0))
    world.run()
    assert isinstance(world.failure, Violation) and world.now < 31.0


def test_ranks_that_do_not_do_the_same_are_noticed() -> None:
    _, ranks = _two()
    ranks.did(0, "finds a round committed")
    ranks.did(0, "applies it")
    ranks.did(1, "finds a round committed")
    with pytest.raises(Violation, match="rank 1 finds a round failed, and rank 0 applies it"):
        ranks.did(1, "finds a round failed")
