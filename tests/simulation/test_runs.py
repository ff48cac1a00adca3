"""Whole runs: equal seeds give equal runs, faults are survived, planted mistakes are found, failures are shrunk."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from muloco.outer.loop.fragment import FragmentState
from muloco.outer.protocol.answers import VOTING, Answers
from muloco.outer.protocol.membership import Membership
from muloco.outer.protocol.outcome import Committed
from muloco.outer.protocol.peer_round import PeerRound
from tests.simulation.faults import Fault, Schedule, draw
from tests.simulation.shrink import kind_of, shrink
from tests.simulation.story import tell
from tests.simulation.toy import Shape

TREE = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "seeds", [range(40), pytest.param(range(1000, 2500), marks=pytest.mark.full)], ids=["some", "many"]
)
def test_schedules_hold_all_invariants(seeds: range) -> None:
    for seed in seeds:
        outcome = draw(seed).run()
        assert outcome.failure is None, f"python -m tests.simulation --seed {seed}: {outcome.failure}"


def test_a_seed_gives_the_same_run_in_every_process() -> None:
    """Also where sets have another order."""
    code = "from tests.simulation.faults import draw; print([draw(seed).run().fingerprint for seed in range(5)])"
    here = str([draw(seed).run().fingerprint for seed in range(5)])
    environment = os.environ | {"PYTHONHASHSEED": "77", "PYTHONPATH": str(TREE)}
    there = subprocess.run([sys.executable, "-c", code], env=environment, cwd=TREE, capture_output=True, text=True)
    assert there.stdout.strip() == here, there.stderr


@pytest.mark.parametrize("delay", [0, 1])
def test_without_faults_all_rounds_have_all_workers(delay: int) -> None:
    outcome = Schedule(1, Shape(workers=3, interval=2, rounds=3, delay=delay), ()).run()
    applied = [what for _, _, what in outcome.story if what.startswith("has applied")]
    assert outcome.end == "done" and applied
    assert all(f"{worker} (" in what for what in applied for worker in range(3))


def test_a_killed_worker_rejoins() -> None:
    fault = Fault(kind="kill", worker=1, point=70, seconds=1.0, detail="none")
    outcome = Schedule(1, Shape(workers=3, interval=2, rounds=6), (fault,)).run()
    assert outcome.failure is None
    assert any("goes on from another worker's state" in what for _, who, what in outcome.story if who == "worker 1")


def _damaged() -> Iterator[Schedule]:
    """Some bytes of a round arrive damaged."""
    for point, seed in itertools.product(range(1, 5), range(3)):
        fault = Fault(kind="message", worker=0, point=point, phase="scatter", times=2, amount=1, detail="damaged")
        yield Schedule(seed, Shape(workers=3, interval=2, rounds=3), (fault,))


def _slow_to_vote() -> Iterator[Schedule]:
    """Two workers lose each other in the vote, and the third one has not begun to vote when they ask it."""
    for point, seed in itertools.product(range(5, 8), range(4)):
        reset = Fault(kind="reset", worker=0, other=1, point=point, phase="vote", times=2)
        pause = Fault(kind="pause", worker=2, point=4, phase="vote", times=2, seconds=0.5)
        yield Schedule(seed, Shape(workers=3, interval=2, rounds=3), (reset, pause))


def _dies_in_the_vote() -> Iterator[Schedule]:
    """A worker dies when some have its vote."""
    for point, seed in itertools.product(range(5, 8), range(4)):
        fault = Fault(kind="kill", worker=1, point=point, phase="vote", times=2, seconds=5.0, detail="none")
        yield Schedule(seed, Shape(workers=3, interval=2, rounds=3), (fault,))


def _dies_and_comes_back() -> Iterator[Schedule]:
    for point, seed in itertools.product(range(0, 6, 2), range(3)):
        fault = Fault(kind="kill", worker=1, point=point, phase="open", times=2, seconds=1.0, detail="none")
        yield Schedule(seed, Shape(workers=3, interval=2, rounds=6), (fault,))


def _votes_though_asked(answers: Answers, name: str) -> bool:
    answers.say(name, VOTING)
    return True


def _keeps_no_positions(membership: Membership, committed: Committed, commit=Membership.commit) -> None:
    commit(membership, replace(committed, data_positions={}))


def _keeps_its_window(fragment: FragmentState, alpha: float = 0.0, merge=FragmentState.merge) -> None:
    window = fragment.window
    merge(fragment, alpha)
    fragment.window = min(1, window)


PLANTED = {
    "arrived bytes are not compared": (PeerRound, "_compare_seals", lambda self, name: None, _damaged),
    "a worker votes though others have given it up": (Answers, "begin_vote", _votes_though_asked, _slow_to_vote),
    "in doubt, a worker takes the round for failed": (PeerRound, "_ask_others", lambda s, n: False, _dies_in_the_vote),
    "the others' data positions are not kept": (Membership, "commit", _keeps_no_positions, _dies_and_comes_back),
    "a window does not begin anew": (FragmentState, "merge", _keeps_its_window, _dies_and_comes_back),
}
"""Mistakes, each by what is put in which place, and schedules in which it shows."""


@pytest.mark.parametrize("mistake", PLANTED)
def test_planted_mistakes_are_found(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, name, instead, schedules = PLANTED[mistake]
    assert not [kind for schedule in schedules() if (kind := kind_of(schedule.run()))]
    monkeypatch.setattr(place, name, instead)
    assert any(kind_of(schedule.run()) for schedule in schedules())


def test_a_failing_schedule_is_shrunk_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three faults and five workers, what is left is the fault that matters."""
    matters = Fault(kind="message", worker=0, point=2, phase="scatter", times=2, amount=1, detail="damaged")
    other = Fault(kind="jump", worker=2, point=9, amount=5.0)
    shape = Shape(workers=5, interval=2, rounds=4)
    monkeypatch.setattr(PeerRound, "_compare_seals", lambda self, name: None)
    schedules = (Schedule(seed, shape, (other, matters, replace(other, worker=3))) for seed in range(20))
    failing = next(schedule for schedule in schedules if kind_of(schedule.run()))
    kind, short = kind_of(failing.run()), shrink(failing)
    assert kind.startswith("Violation") and kind_of(short.run()) == kind
    assert [fault.kind for fault in short.faults] == ["message"] and short.shape.workers < 5
    story = list(tell(short, short.run(told=True)))
    assert story[-1].startswith("It has failed: Violation")
    assert any("worker 0: damaged" in line for line in story)
