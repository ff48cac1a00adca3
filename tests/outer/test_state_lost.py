"""A worker that the run has left behind begins nothing and leads nothing."""

import pytest
import torch

from muloco.outer import Crowd, StateLost
from muloco.outer.in_process import InProcessGroup
from muloco.outer.membership import Membership
from muloco.outer.terms import Terms
from muloco.outer.transaction import NOBODY


class Shut:
    """A transport that nobody may use."""

    def any_rank(self, value: bool) -> bool:
        return value

    def open(self, step: int):
        raise AssertionError("it meets nobody")


class Sent:
    """A pseudogradient without a fragment, see `muloco.outer.outgoing.Outgoing`."""

    finite, overwrite = True, False

    def __init__(self, vector: torch.Tensor):
        self.vector = vector.clone


def membership(transport, **crowd) -> Membership:
    terms = Terms(workers=crowd.get("workers", 1), sync_interval=4, fragments=2)
    who = Crowd(run="r", **crowd)
    return Membership(transport, who, terms=terms, wire_of=lambda fragment: None, share=str, transfer=None)


@pytest.mark.parametrize("reached", [0, 4])
def test_who_is_as_far_as_the_run_begins(reached: int) -> None:
    member = membership(InProcessGroup(1).transport(0), reached=lambda: reached)
    member.start(4, torch.tensor(1))
    assert member.members == [0]


def test_who_is_behind_the_run_begins_nothing() -> None:
    member = membership(InProcessGroup(1).transport(0), reached=lambda: 5)
    with pytest.raises(StateLost, match="run 'r' has come to step 5, .* begin after step 4; .* --resume"):
        member.start(4, torch.tensor(1))


def test_who_was_left_behind_begins_nothing_though_it_is_as_far() -> None:
    member = membership(InProcessGroup(1).transport(0), reached=lambda: 4)
    with pytest.raises(StateLost, match="has come to step 4, .* begin after step 4"):
        member.start(4, torch.tensor(1), left_behind=True)


def test_who_was_passed_at_a_sync_opens_no_round() -> None:
    """It asks for the step at which the mean is due."""
    seen = []
    member = membership(Shut(), passed=lambda *sync: seen.append(sync) or True)
    agreement = member.agree(8, 1, Sent(torch.ones(1)), due=10, weight=4, checksum=torch.tensor(1))
    assert agreement.donor == NOBODY and seen == [(10, 1)]
    member = membership(Shut(), passed=lambda *sync: True)
    member._transfer = Shut()
    assert not member.take_over(agreement), "it has to look for the others"
