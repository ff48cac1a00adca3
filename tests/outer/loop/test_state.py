"""State saved after any step, mid-window or with a fragment in flight, continues to the bit in a fresh loop."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from muloco.outer import RunProgress, Snapshot
from muloco.outer.in_process import InProcessGroup
from muloco.outer.loop.snapshot import Tensors
from muloco.settings.outer import OuterOptimizer
from muloco.training.outer import build_outer_optimizer

from ..toy import Case, Result, drift, restore, save, start, train_in_process, walk
from ..words import Ledger
from ..workers import run_workers

CASE = Case(workers=2, fragments=3, interval=13, steps=30, alpha=0.5)
OPTIMIZERS = {
    "sgd": OuterOptimizer(lr=0.7, momentum=0.9),
    "adamw": OuterOptimizer(class_name="adamw", lr=0.1, momentum=0.0),
    "muon": OuterOptimizer(class_name="muon", lr=0.1, momentum=0.8),
}


def saved_after_every_step(case: Case, **options) -> list[list[tuple]]:
    """`[worker][step - 1]` of a run that is saved after each of its steps."""
    group = InProcessGroup(case.workers)

    def work(worker: int) -> list[tuple]:
        parameters = start()
        loop = case.loop(parameters, group.transport(worker), worker, **options)
        loop.start(0)
        states = []
        for step in range(1, case.steps):
            walk(loop, parameters, worker, [step], case.steps)
            states.append(save(loop, parameters))
        return states

    return run_workers(group, work)


def continued(case: Case, states: list[tuple], step: int, **options) -> list[Result]:
    """The run from `step` on, in fresh loops that began with something else."""
    group = InProcessGroup(case.workers)

    def work(worker: int) -> Result:
        parameters = {name: torch.full_like(tensor, 9.0) for name, tensor in start().items()}
        loop = case.loop(parameters, group.transport(worker), worker, **options)
        restore(states[worker], loop, parameters)
        loop.start(step)
        return walk(loop, parameters, worker, range(step + 1, case.steps + 1), case.steps)

    return run_workers(group, work)


@pytest.mark.parametrize(("delay", "optimizer"), [(0, "sgd"), (1, "adamw"), (3, "sgd"), (3, "muon")])
def test_continues_to_the_bit_from_any_step(delay: int, optimizer: str) -> None:
    case = CASE.with_(delay=delay)
    options = {"build": partial(build_outer_optimizer, OPTIMIZERS[optimizer]), "learning_rate": lambda step: 1 / step}
    whole = train_in_process(case, **options)
    states = saved_after_every_step(case, **options)
    in_flight = [step for step in range(1, case.steps) if "mean" in states[0][step - 1][0].tensors]
    due = [4, 8, 13, 17, 21, 26, 30]
    assert in_flight == [d - before for d in due for before in range(delay, 0, -1)]
    for step in range(1, case.steps):
        again = continued(case, [states[worker][step - 1] for worker in range(2)], step, **options)
        for worker, (result, uninterrupted) in enumerate(zip(again, whole, strict=True)):
            later = [(at, sync) for at, sync in uninterrupted.syncs if at > step]
            assert [(at, sync.digest) for at, sync in result.syncs] == [(at, sync.digest) for at, sync in later], step
            for (_, mine), (_, theirs) in zip(result.syncs, later, strict=True):
                assert (mine.weights, mine.attempts, mine.own_square, mine.mean_square, mine.product) == (
                    *(theirs.weights, theirs.attempts, theirs.own_square, theirs.mean_square, theirs.product),
                ), f"step {step}, worker {worker}"
            for name, value in uninterrupted.parameters.items():
                assert torch.equal(result.parameters[name], value), f"step {step}, worker {worker}, {name}"


def test_saving_disturbs_nothing() -> None:
    case = CASE.with_(delay=3)
    states = saved_after_every_step(case)
    for worker, result in enumerate(train_in_process(case)):
        for name, value in result.local[-2].items():
            assert torch.equal(states[worker][-1][1][name], value)


def test_validation_sees_the_anchor_and_training_goes_on_from_the_local_weights() -> None:
    parameters = start()
    loop = Case(workers=1, interval=3).loop(parameters, InProcessGroup(1).transport(0), 0)
    assert loop.parameters_are_anchor
    walk(loop, parameters, 0, [1], 99)
    local = {name: tensor.clone() for name, tensor in parameters.items()}
    assert not loop.parameters_are_anchor
    with loop.anchor_weights():
        assert all(torch.equal(parameters[name], value) for name, value in start().items())
    assert all(torch.equal(parameters[name], value) for name, value in local.items())
    walk(loop, parameters, 0, [2, 3], 99)
    assert loop.parameters_are_anchor


def test_parameters_that_kept_a_local_share_are_not_the_anchor() -> None:
    parameters = start()
    loop = Case(workers=1, interval=3, alpha=0.5).loop(parameters, InProcessGroup(1).transport(0), 0)
    for step in (1, 2, 3):
        for name, change in drift(0, step).items():
            parameters[name] += change
        loop.after_inner_step(step)
    anchor = loop.snapshot(own=False).tensors["anchor"]
    assert not loop.parameters_are_anchor
    with loop.anchor_weights():
        assert all(torch.equal(parameters[name], value) for name, value in anchor.items())
    assert not any(torch.equal(parameters[name], value) for name, value in anchor.items())


POSITION = {
    "windows": [1, 10, 5],
    "outer_steps": [1, 1, 0],
    "membership": {"history": "0123456789abcdef", "shares": [[0, "{}"], [1, ""]], "members": [0, 1]},
    "arrived": {
        "agreement": {
            **{"step": 18, "fragment": 1, "mean": None, "weights": [[0, 13], [1, 12]], "shares": [[0, "{}"], [1, ""]]},
            **{"behind": [], "donor": None, "donates": False, "name": "4", "history": "fedcba9876543210"},
            **{"bytes_sent": 120, "attempts": 2, "leaving": False},
        },
        **{"own_square": 4.0, "mean_square": 1.0, "product": 2.0},
    },
}
"""What the first version writes after inner step 18, with fragment 1 in flight."""


def test_a_checkpoint_of_the_first_version_is_read_and_written() -> None:
    case = CASE.with_(workers=1, delay=3)
    parameters = start()
    loop = case.loop(parameters, InProcessGroup(1).transport(0), 0)
    tensors = dict(loop.snapshot(own=False).tensors)
    tensors["mean"] = {name: torch.full_like(start()[name], 0.5) for name in loop.fragments[1].anchor}
    loop.restore(Snapshot(position=json.dumps(POSITION), tensors=tensors, residuals={}, codecs={}), own=True)
    assert json.loads(loop.snapshot(own=True).position) == POSITION
    assert loop.last_round() == ([0, 1], "fedcba9876543210")
    result = walk(loop, parameters, 0, [19, 20, 21], case.steps)
    ((step, sync),) = result.syncs
    assert (step, sync.fragment, sync.weights, sync.attempts) == (21, 1, {0: 13, 1: 12}, 2)
    assert (sync.own_square, sync.mean_square, sync.product) == (4.0, 1.0, 2.0)
    first_step = 0.7 * (1 + 0.9) * 0.5  # Nesterov, from a buffer of zeros
    for name, anchor in loop.fragments[1].anchor.items():
        torch.testing.assert_close(anchor, start()[name] - first_step)


def test_the_state_of_a_worker_that_was_left_behind_cannot_be_saved() -> None:
    """It is not the state of the run."""
    case = Case(workers=1, fragments=3, delay=2)
    parameters = start()
    progress = RunProgress(committed_without_me=lambda step, fragment: True)
    loop = case.loop(parameters, InProcessGroup(1).transport(0), 0, progress=progress)
    loop.start(0)
    loop.membership.holders = [0, 1]  # as if another one had been there
    walk(loop, parameters, 0, [1], case.steps)
    loop.snapshot(own=True)
    walk(loop, parameters, 0, [2], case.steps)
    assert loop.sends_after(2)
    assert loop.last_round()[0] == []
    with pytest.raises(RuntimeError, match="gone on without this worker"):
        loop.snapshot(own=True)


@pytest.mark.parametrize("own", [False, True])
def test_a_state_is_taken_and_restored_in_the_memory_that_is_in_use(own: bool) -> None:
    """The mean of a fragment in flight is all that is allocated."""
    ledger, case = Ledger(), CASE.with_(workers=1, delay=3)

    def fill(tensors: Tensors) -> None:
        for values in tensors.values():
            for tensor in values.values():
                tensor.fill_(2.0)

    with ledger.counting():
        loop = case.loop(start(), InProcessGroup(1).transport(0), 0)
        before = ledger.begin()
        saved = SimpleNamespace(position=json.dumps(POSITION), residuals={}, codecs={}, fill=fill)
        loop.restore(saved, own=own)
        tensors = loop.snapshot(own=own).tensors
    assert ledger.peak // 4 - before == loop.fragments[1].elements
    assert set(tensors) == {"anchor", "outer_momentum_buffer", "mean"}
    for fragment in loop.fragments:
        for name, anchor in fragment.anchor.items():
            assert tensors["anchor"][name] is anchor and (anchor == 2.0).all()
            assert (fragment.parameters[name] == (start()[name] if own else anchor)).all()
