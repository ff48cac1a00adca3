"""Whole runs: equal seeds give equal runs, faults are survived, planted mistakes are found, failures are shrunk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from muloco.outer.protocol.answers import COMMITTED, Answers
from muloco.outer.protocol.membership import Membership
from muloco.outer.protocol.peer_round import PeerRound
from tests.simulation.faults import Fault, Schedule, draw
from tests.simulation.invariants import Violation
from tests.simulation.shrink import kind_of, shrink
from tests.simulation.story import tell
from tests.simulation.toy import Shape

TREE = Path(__file__).parents[2]


def test_many_schedules_hold_all_invariants() -> None:
    for seed in range(60):
        outcome = draw(seed).run()
        assert outcome.failure is None, f"python -m tests.simulation --seed {seed}: {outcome.failure}"


def test_a_seed_gives_the_same_run_in_every_process() -> None:
    """Also where sets have another order."""
    code = "from tests.simulation.faults import draw; print([draw(seed).run().fingerprint for seed in range(8)])"
    here = str([draw(seed).run().fingerprint for seed in range(8)])
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


def _fails(monkeypatch: pytest.MonkeyPatch, seeds: range, kind: type[BaseException] = Violation) -> Schedule:
    """The first of these schedules that fails."""
    for seed in seeds:
        outcome = draw(seed).run()
        if outcome.failure is not None:
            return draw(seed)
    raise AssertionError("the mistake was not found")


def test_a_vote_that_is_not_waited_for_is_found_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted mistake: who has sent its own vote commits."""
    monkeypatch.setattr(PeerRound, "_ask_others", lambda self, name: True)
    failing = _fails(monkeypatch, range(300))
    kind = kind_of(failing.run())
    short = shrink(failing)
    assert kind_of(short.run()) == kind
    assert len(short.faults) <= len(failing.faults)
    story = "\n".join(tell(short, short.run(told=True)))
    assert "It has failed" in story and "worker 0" in story


def test_a_window_that_is_counted_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted mistake: a worker that takes over a state goes on at its own position in the data."""
    monkeypatch.setattr(Answers, "begin_vote", lambda self, name: self.say(name, COMMITTED) is None)
    _fails(monkeypatch, range(300))


def test_a_worker_that_was_left_behind_and_does_not_ask_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted mistake: nobody looks whether the others have gone on."""
    commit = Membership.commit

    def all_are_here(self: Membership, committed) -> None:
        commit(self, committed)
        self._holders = ()

    monkeypatch.setattr(Membership, "commit", all_are_here)
    _fails(monkeypatch, range(600))
