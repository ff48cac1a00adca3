"""A worker that the run has left behind begins nothing and leads nothing."""

import pytest
import torch

from muloco.outer import Crowd, StateLost
from muloco.outer.channel import Channel
from muloco.outer.compression import Compression
from muloco.outer.in_process import InProcessGroup
from muloco.outer.membership import Membership
from muloco.outer.terms import Terms
from muloco.outer.transaction import NOBODY

from .workers import run_workers

TERMS = Terms(workers=2, sync_interval=4, fragments=1)


class Empty:
    """A transfer of states without a state."""


class Sent:
    """A pseudogradient without a fragment, see `muloco.outer.outgoing.Outgoing`."""

    finite, overwrite = True, False

    def __init__(self, vector: torch.Tensor):
        self.vector = vector.clone


def membership(transport, **crowd) -> Membership:
    terms = Terms(workers=crowd.get("workers", 1), sync_interval=4, fragments=2)
    who = Crowd(run="r", **crowd)
    return Membership(transport, who, terms=terms, channel_of=lambda fragment: None, share=str, transfer=None)


@pytest.mark.parametrize("reached", [0, 4])
def test_who_is_as_far_as_the_run_begins(reached: int) -> None:
    member = membership(InProcessGroup(1).transport(0), reached=lambda: reached)
    member.start(4, torch.tensor(1))
    assert member.members == [0]


def test_who_is_behind_the_run_begins_nothing() -> None:
    member = membership(InProcessGroup(1).transport(0), reached=lambda: 5)
    with pytest.raises(StateLost, match="run 'r' has come to step 5, .* begin after step 4$"):
        member.start(4, torch.tensor(1))


def test_who_was_left_behind_begins_nothing_though_it_is_as_far() -> None:
    member = membership(InProcessGroup(1).transport(0), reached=lambda: 4)
    with pytest.raises(StateLost, match="has come to step 4, .* begin after step 4"):
        member.start(4, torch.tensor(1), left_behind=True)


@pytest.mark.parametrize("passed", [False, True])
def test_who_meets_fewer_than_before_asks_whether_the_run_has_gone_on(passed: bool) -> None:
    """Worker 1 comes to the first round only. As long as all are there, nobody asks."""
    group, asked, committed = InProcessGroup(2), [], []

    def work(worker: int) -> object:
        crowd = Crowd(
            run="r",
            worker=worker,
            workers=2,
            passed=lambda *sync: asked.append((worker, *sync)) or passed,
            committed=lambda step, fragment, members: committed.append((worker, step, fragment, sorted(members))),
        )
        channel_of = [Channel(Compression(), {"w": torch.empty(3)})].__getitem__
        member = Membership(
            group.transport(worker), crowd, terms=TERMS, channel_of=channel_of, share=str, transfer=Empty()
        )
        both = member.agree(4, 0, Sent(torch.ones(3)), weight=4, checksum=torch.tensor(1))
        member.commit(both)
        if worker == 1:
            return None
        alone = member.agree(8, 0, Sent(torch.ones(3)), weight=4, checksum=torch.tensor(1))
        assert not passed or not member.take_over(alone), "it has to look for the others"
        return alone.donor, alone.weights

    outcome, _ = run_workers(group, work)
    assert outcome == ((NOBODY, {}) if passed else (None, {0: 4}))
    assert asked == [(0, 8, 0)]
    assert sorted(committed) == [(0, 4, 0, [0, 1])] + [(0, 8, 0, [0])] * (not passed) + [(1, 4, 0, [0, 1])]
