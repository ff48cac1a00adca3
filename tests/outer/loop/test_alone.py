"""A worker that finds too few others for a sync does it by itself; its state then continues like any other."""

from typing import Any

import pytest
import torch

from muloco.outer import QuorumPolicy, Round, RunProgress, StateLost, Transport, TransportError, WorkerIdentity
from muloco.outer.in_process import InProcessGroup

from ..toy import Case, restore, save, start, train_in_process, walk


class NoQuorum:
    """A transport at which nobody else is found from some sync on."""

    def __init__(self, inner: Transport, since: int):
        self._inner, self._since = inner, since

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def open(self, step: int) -> Round:
        if step >= self._since:
            raise TransportError(f"sync after step {step}: no quorum")
        return self._inner.open(step)


@pytest.mark.parametrize("delay", [0, 2])
@pytest.mark.parametrize("fragments", [1, 3])
@pytest.mark.parametrize("since", [13, 14, 27, 30])
def test_what_it_saves_continues_as_if_it_had_been_alone_at_that_sync(since: int, fragments: int, delay: int) -> None:
    """The oracle is a run of one worker, which is alone at every sync and loses nobody."""
    case = Case(workers=1, fragments=fragments, delay=delay, alpha=0.5)
    whole = train_in_process(case)[0]
    parameters = start()
    loop = case.loop(parameters, NoQuorum(InProcessGroup(1).transport(0), since), 0)
    loop.start(0)
    told = []
    loop.membership.progress = RunProgress(record=lambda step, *rest: told.append(step))
    for step in range(1, case.steps + 1):
        try:
            walk(loop, parameters, 0, [step], case.steps)
            save(loop, parameters)  # where a checkpoint is due, it is the first to notice
        except TransportError:
            break
    assert loop.sync_alone(step, last=step == case.steps)
    assert loop.last_round()[0] == [0]
    assert all(at < since for at in told), "others may wait for this very sync"
    saved = save(loop, parameters)
    assert all(fragment.window < case.interval for fragment in loop.fragments)

    again = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    resumed = case.loop(again, InProcessGroup(1).transport(0), 0)
    restore(saved, resumed, again)
    resumed.start(step)
    rest = walk(resumed, again, 0, range(step + 1, case.steps + 1), case.steps)
    assert rest.digests == [sync.digest for at, sync in whole.syncs if at > step]
    for name, tensor in whole.parameters.items():
        assert torch.equal(again[name], tensor), name


def test_one_that_was_left_behind_has_no_state_to_save() -> None:
    """The others have gone on without it: what it holds is not the state of the run. It waits for nobody to say so."""
    case = Case(workers=1)
    parameters = start()
    loop = case.loop(parameters, NoQuorum(InProcessGroup(1).transport(0), case.interval), 0, transfer=object())
    loop.start(0)
    assert not loop.sync_alone(0), "no sync has failed"
    with pytest.raises(TransportError):
        walk(loop, parameters, 0, range(1, case.steps), case.steps)
    loop.membership.members = [0, 1]
    loop.membership.identity = WorkerIdentity(workers=4)
    loop.membership.quorum = QuorumPolicy(min_replica_size=2, quorum_timeout_seconds=0.0)
    loop.membership.progress = RunProgress(committed_without_me=lambda step, fragment: True)
    with pytest.raises(StateLost):
        loop.sync_alone(case.interval)
