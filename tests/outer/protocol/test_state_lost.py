"""A worker that the run has left behind begins nothing and leads nothing."""

import pytest
import torch

from muloco.outer import QuorumPolicy, RunProgress, StateLost, WorkerIdentity
from muloco.outer.codecs.channel import Channel
from muloco.outer.codecs.compression import Compression
from muloco.outer.in_process import InProcessGroup
from muloco.outer.protocol.membership import Membership
from muloco.outer.protocol.outcome import Committed, LeftBehind
from muloco.outer.protocol.terms import Terms

from ..workers import run_workers

OWN = {"weight": 4, "finite": True, "checksums": lambda: torch.tensor([1, 1]), "overwrite": False}


def membership(transport, *, worker: int = 0, workers: int = 1, channel_of=None, **progress) -> Membership:
    return Membership(
        transport,
        identity=WorkerIdentity(run="r", worker=worker, workers=workers),
        quorum=QuorumPolicy(),
        progress=RunProgress(**progress),
        terms=Terms(workers=workers, sync_interval=4, fragments=2),
        channel_of=channel_of,
        data_position=str,
        handover=None,
    )


@pytest.mark.parametrize("reached", [0, 4])
def test_who_is_as_far_as_the_run_begins(reached: int) -> None:
    member = membership(InProcessGroup(1).transport(0), last_committed_step=lambda: reached)
    member.start(4, torch.tensor([1, 1]))
    assert member.members == [0]


def test_who_is_behind_the_run_begins_nothing() -> None:
    member = membership(InProcessGroup(1).transport(0), last_committed_step=lambda: 5)
    with pytest.raises(StateLost, match="run 'r' has come to step 5, .* begin after step 4$"):
        member.start(4, torch.tensor([1, 1]))


def test_who_was_left_behind_begins_nothing_though_it_is_as_far() -> None:
    member = membership(InProcessGroup(1).transport(0), last_committed_step=lambda: 4)
    with pytest.raises(StateLost, match="has come to step 4, .* begin after step 4"):
        member.start(4, torch.tensor([1, 1]), left_behind=True)


def test_who_is_behind_does_not_give_up_the_run_as_long_as_another_worker_goes_on() -> None:
    """It waits until that one comes, or does not go on any more."""
    transport, said = InProcessGroup(1).transport(0), [b"training", b"deciding 1 1", b"meeting", b"away"]
    transport.inquire = lambda question, seconds, workers=None: {1: said.pop(0)}  # type: ignore[method-assign]
    with pytest.raises(StateLost):
        membership(transport, last_committed_step=lambda: 5).start(4, torch.tensor([1, 1]))
    assert said == []


@pytest.mark.parametrize("passed", [False, True])
def test_who_meets_fewer_than_before_asks_whether_the_run_has_gone_on(passed: bool) -> None:
    """Worker 1 comes to the first round only. As long as all are there, nobody asks."""
    group, asked, committed = InProcessGroup(2), [], []

    def work(worker: int) -> object:
        member = membership(
            group.transport(worker),
            worker=worker,
            workers=2,
            channel_of=[Channel(Compression(), {"w": torch.empty(3)})].__getitem__,
            committed_without_me=lambda *sync: asked.append((worker, *sync)) or passed,
            record=lambda step, fragment, members: committed.append((worker, step, fragment, sorted(members))),
        )
        both = member.agree(4, 0, lambda: torch.ones(3), **OWN)
        member.commit(both)
        if worker == 1:
            return None
        alone = member.agree(8, 0, lambda: torch.ones(3), **OWN)
        return alone

    alone, _ = run_workers(group, work)
    assert alone == LeftBehind() if passed else isinstance(alone, Committed) and alone.weights == {0: 4}
    assert asked == [(0, 8, 0)]
    assert sorted(committed) == [(0, 4, 0, [0, 1])] + [(0, 8, 0, [0])] * (not passed) + [(1, 4, 0, [0, 1])]
