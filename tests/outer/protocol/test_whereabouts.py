"""For whom a sync waits, and that two groups which miss each other do not both commit."""

import itertools
import json
from collections.abc import Callable, Collection
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from muloco.outer.codecs.channel import Channel
from muloco.outer.codecs.compression import Compression
from muloco.outer.in_process import InProcessGroup
from muloco.outer.protocol.header import Header, read_header
from muloco.outer.protocol.outcome import Committed
from muloco.outer.protocol.terms import Terms
from muloco.outer.protocol.transaction import ATTEMPTS, agree
from muloco.outer.protocol.transport import TransportError
from muloco.outer.protocol.whereabouts import (
    ASK_SECONDS,
    AWAY,
    COMING_SECONDS,
    MEETING,
    MEETING_SECONDS,
    TRAINING,
    Search,
    Whereabouts,
)

from ..workers import run_workers

STRAGGLER_SECONDS = 100.0
OWN = Header(
    **{"run": "r", "worker": 0, "terms": Terms(workers=2, sync_interval=4), "step": 4, "fragment": 0, "weight": 4},
    **{"finite": True, "digest": 1, "data_position": "", "commit_hash": "h"},
)


class Others:
    """A transport whose other workers say what a test wants, at a time that only passes in pauses.

    Args:
        say: what each worker says, by worker; those that are not in it are gone.
    """

    def __init__(self, **say: str) -> None:
        self.say = {int(worker.removeprefix("w")): said for worker, said in say.items()}
        self.time = 0.0
        self.asked: list[set[int]] = []
        self.before_answer: Callable[[], object] = lambda: None
        self.clock = SimpleNamespace(now=lambda: self.time, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def answer(self, question: str, answer: Callable[[], bytes]) -> None:
        self.own = answer

    def inquire(self, question: str, seconds: float, workers: Collection[int] | None = None) -> dict[int, bytes]:
        self.before_answer()
        self.asked.append(set(self.say if workers is None else workers))
        return {worker: said.encode() for worker, said in self.say.items() if worker in self.asked[-1]}


def search(others: Others) -> Search:
    """Worker 0 of three, which hold the state of the last round, begins a sync."""
    return Whereabouts(others).search([0, 1, 2], straggler_seconds=STRAGGLER_SECONDS)


def round_of(*workers: int) -> SimpleNamespace:
    return SimpleNamespace(workers=workers)


def waits_until(others: Others) -> float:
    """Returns the second at which worker 0, which meets nobody and looks again every second, does not wait any more."""
    sync = search(others)
    while sync.waits(round_of(0)):
        sync.failed(stays_out=False)
        others.sleep(1.0)
    return others.time


def test_where_all_are_here_nobody_is_asked() -> None:
    others = Others(w1=MEETING, w2=MEETING)
    assert not search(others).waits(round_of(2, 0, 1)) and others.asked == []


def test_only_those_that_are_missing_are_asked() -> None:
    others = Others(w1=MEETING, w2=AWAY)
    assert not search(others).waits(round_of(0, 1)) and others.asked == [{2}]


@pytest.mark.parametrize(
    ("says", "seconds"),
    [({"w2": TRAINING}, STRAGGLER_SECONDS), ({"w2": MEETING}, COMING_SECONDS), ({"w2": AWAY}, 0), ({}, 0)]
    + [({"w2": "nonsense"}, 0), ({"w2": "deciding"}, 0), ({"w1": MEETING, "w2": TRAINING}, STRAGGLER_SECONDS)],
)
def test_a_sync_waits_for_a_bounded_time_for_those_that_may_come(says: dict[str, str], seconds: float) -> None:
    assert waits_until(Others(**says)) == seconds


def test_while_the_lighthouse_is_away_the_time_does_not_pass() -> None:
    others = Others(w1=MEETING)
    sync = search(others)
    assert sync.waits(round_of(0))
    sync.failed(stays_out=False)
    others.sleep(COMING_SECONDS + MEETING_SECONDS)  # this is how long the next meeting takes
    assert sync.waits(round_of(0))


def test_members_that_could_not_be_connected_ask_nobody() -> None:
    others = Others(w1=MEETING)
    assert not search(others).waits(round_of()) and others.asked == [] and others.own() == MEETING.encode()


def test_what_a_worker_says_of_itself() -> None:
    others = Others(w1=AWAY, w2=AWAY)
    whereabouts, said = Whereabouts(others), []
    others.before_answer = lambda: said.append(others.own())
    assert others.own() == AWAY.encode()
    sync = whereabouts.search([0, 1, 2], straggler_seconds=STRAGGLER_SECONDS)
    assert others.own() == MEETING.encode()
    sync.waits(round_of(0, 1))
    assert said == [b"deciding 2 0"], "it says so before it asks, or two groups could miss each other"
    sync.failed(stays_out=False)
    assert others.own() == MEETING.encode()
    sync.failed(stays_out=True)
    assert others.own() == AWAY.encode(), "nobody waits for a worker that stays out of the rounds"


@pytest.mark.parametrize("stronger", ["deciding 2 1", "deciding 1 0"])
def test_the_weaker_group_gives_its_round_up(stronger: str) -> None:
    others = Others(w2=stronger)
    sync = Whereabouts(others).search([0, 1, 2], straggler_seconds=STRAGGLER_SECONDS)
    assert sync.waits(round_of(1)) and others.time == 0.0


@pytest.mark.parametrize("weaker", ["deciding 1 2", "deciding 1 1"])
def test_the_stronger_group_goes_on_once_the_weaker_one_has_given_up(weaker: str) -> None:
    others = Others(w2=weaker)
    others.before_answer = lambda: others.say.update({2: AWAY} if len(others.asked) == 3 else {})
    assert not search(others).waits(round_of(0)) and others.time > 0.0


def test_the_stronger_group_gives_its_round_up_if_the_weaker_one_goes_on() -> None:
    """It may be long in its exchange, and has not asked since the stronger one has begun."""
    others = Others(w2="deciding 1 2")
    assert search(others).waits(round_of(0, 1)) and ASK_SECONDS < others.time < 2 * ASK_SECONDS


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_groups_that_ask_at_the_same_time_at_most_one_commits(first: int) -> None:
    """Each hears what the other one says at that moment, whichever asks first."""
    groups = {0: round_of(0), 1: round_of(1, 2)}
    others = {0: Others(), 1: Others()}
    syncs = {0: search(others[0]), 1: search(others[1])}
    yields: dict[int, bool] = {}

    def hears(own: int) -> None:
        other = 1 - own
        if own == first and other not in yields:  # the other group asks before this one has its answer
            yields[other] = syncs[other].waits(groups[other])
            if yields[other]:
                syncs[other].failed(stays_out=True)
        others[own].say = dict.fromkeys(groups[other].workers, others[other].own().decode())

    for own in (0, 1):
        others[own].before_answer = lambda own=own: hears(own)
    yields[first] = syncs[first].waits(groups[first])
    assert any(yields.values())


def test_waiting_does_not_use_up_the_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only worker 1 waits, and worker 0 learns of it in the round."""
    monkeypatch.setattr("muloco.outer.protocol.transaction.PAUSE_SECONDS", 0.0)
    group, channel = InProcessGroup(2), Channel(Compression(), {"w": torch.empty(3)})
    rounds = itertools.count(1)
    waiting = SimpleNamespace(waits=lambda this_round: next(rounds) <= ATTEMPTS + 5, failed=lambda stays_out: None)

    def work(worker: int) -> object:
        sent = []
        payload = lambda: sent.append(1) or torch.ones(3)  # noqa: E731
        own = replace(OWN, worker=worker)
        outcome = agree(
            group.transport(worker), own, payload, lambda fragment: channel, search=waiting if worker == 1 else None
        )
        assert len(sent) == 1, "nothing is sent in a round that waits"
        return outcome

    for outcome in run_workers(group, work):
        assert isinstance(outcome, Committed) and outcome.attempts == ATTEMPTS + 6


def test_a_header_of_an_earlier_version_waits_for_nobody() -> None:
    values = json.loads(OWN.to_bytes())
    del values["waits"]
    assert read_header(json.dumps(values).encode()) == OWN
    assert read_header(replace(OWN, waits=True).to_bytes()) == replace(OWN, waits=True)


def test_a_sync_that_fails_leaves_nobody_waiting() -> None:
    """`Membership.agree` ends with an error: the worker does not come to another round."""
    from .test_state_lost import membership

    others = Others()
    others.any_rank, others.device = bool, torch.device("cpu")  # type: ignore[attr-defined]

    def open_round(step: int) -> object:
        assert others.own() == MEETING.encode()
        raise TransportError("no quorum")

    others.open = open_round  # type: ignore[attr-defined]
    member = membership(others)
    sync = {"weight": 4, "finite": True, "checksums": lambda: torch.tensor([1, 1]), "overwrite": False}
    with pytest.raises(TransportError):
        member.agree(4, 0, lambda: torch.ones(3), **sync)
    assert others.own() == AWAY.encode()
