"""The outer loop against a straight-line reference in double precision."""

import math
from functools import partial

import pytest
import torch

from muloco.outer import OuterLoop
from muloco.outer.in_process import InProcessGroup
from muloco.outer.loop import AnchorMismatch, NonFinitePseudogradient
from muloco.outer.optimizer import build_outer_optimizer

from .workers import run_workers

SHAPES = {"a": (3, 5), "b": (7,), "c": (1, 1)}


def start() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def drift(worker: int, step: int) -> dict[str, torch.Tensor]:
    """What an inner step adds: of its own for each worker and step."""
    generator = torch.Generator().manual_seed(1000 * worker + step)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def build(group: InProcessGroup, rank: int, *, interval: int, lr=0.7, momentum=0.9, nesterov=True, parameters=None):
    parameters = start() if parameters is None else parameters
    optimizer = partial(build_outer_optimizer, class_name="sgd", lr=lr, momentum=momentum, nesterov=nesterov)
    loop = OuterLoop(parameters, optimizer, group.transport(rank), worker=rank, sync_interval=interval)
    return parameters, loop


def reference(workers: int, steps: int, interval: int, lr: float, momentum: float, nesterov: bool):
    """DiLoCo with one list of numbers a parameter and none of our code; the last window may be short."""
    anchor = {name: tensor.double() for name, tensor in start().items()}
    buffer = {name: torch.zeros_like(tensor) for name, tensor in anchor.items()}
    step = 0
    while step < steps:
        window = min(interval, steps - step)
        locals_ = []
        for worker in range(workers):
            local = {name: tensor.clone() for name, tensor in anchor.items()}
            for inner in range(step + 1, step + window + 1):
                for name, change in drift(worker, inner).items():
                    local[name] += change.double()
            locals_.append(local)
        for name in anchor:
            gradient = anchor[name] - sum(local[name] for local in locals_) / workers
            buffer[name] = momentum * buffer[name] + gradient
            anchor[name] = anchor[name] - lr * (gradient + momentum * buffer[name] if nesterov else buffer[name])
        step += window
    return anchor


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize(
    ("workers", "steps", "interval", "lr", "momentum"),
    [(1, 12, 4, 0.7, 0.6), (2, 12, 4, 0.5, 0.9), (3, 10, 4, 1.3, 0.8), (5, 6, 1, 1.0, 0.0), (2, 5, 30, 0.9, 0.9)],
)
def test_equals_the_reference(workers, steps, interval, lr, momentum, nesterov) -> None:
    group = InProcessGroup(workers)

    def work(rank: int):
        parameters, loop = build(group, rank, interval=interval, lr=lr, momentum=momentum, nesterov=nesterov)
        syncs = []
        for step in range(1, steps + 1):
            for name, change in drift(rank, step).items():
                parameters[name] += change
            syncs.append(loop.after_inner_step(step, last=step == steps))
        return parameters, loop, syncs

    results = run_workers(group, work)
    expected = reference(workers, steps, interval, lr, momentum, nesterov)
    for parameters, loop, syncs in results:
        for name in SHAPES:
            torch.testing.assert_close(parameters[name].double(), expected[name], rtol=1e-5, atol=1e-5)
            assert torch.equal(parameters[name], loop.anchor[name])
            assert torch.equal(parameters[name], results[0][0][name])
        assert [sync is not None for sync in syncs] == [
            step % interval == 0 or step == steps for step in range(1, steps + 1)
        ]
        assert {sync.participants for sync in syncs if sync} == {workers}
        assert [sync and sync.digest for sync in syncs] == [sync and sync.digest for sync in results[0][2]]


def test_plain_averaging_is_outer_lr_one_without_momentum() -> None:
    group = InProcessGroup(2)

    def work(rank: int):
        parameters, loop = build(group, rank, interval=1, lr=1.0, momentum=0.0)
        for name, change in drift(rank, 1).items():
            parameters[name] += change
        loop.after_inner_step(1)
        return parameters

    for parameters in run_workers(group, work):
        for name, value in start().items():
            mean = value + (drift(0, 1)[name] + drift(1, 1)[name]) / 2
            torch.testing.assert_close(parameters[name], mean)


def test_validation_sees_the_anchor_and_training_goes_on_from_the_local_weights() -> None:
    parameters, loop = build(InProcessGroup(1), 0, interval=3)
    assert not loop.in_mid_window
    for name, change in drift(0, 1).items():
        parameters[name] += change
    loop.after_inner_step(1)
    local = {name: tensor.clone() for name, tensor in parameters.items()}
    assert loop.in_mid_window
    with loop.anchor_weights():
        assert all(torch.equal(parameters[name], value) for name, value in start().items())
    assert all(torch.equal(parameters[name], value) for name, value in local.items())


def test_state_of_one_loop_continues_in_another() -> None:
    """Saved in mid-window after a sync: the copy goes on bit by bit as the original."""
    parameters, loop = build(InProcessGroup(1), 0, interval=3)

    def step(number: int, parameters, loop) -> None:
        for name, change in drift(0, number).items():
            parameters[name] += change
        loop.after_inner_step(number)

    for number in range(1, 6):
        step(number, parameters, loop)
    copied = {name: tensor.clone() for name, tensor in parameters.items()}
    other, continued = build(InProcessGroup(1), 0, interval=3, parameters=copied)
    assert loop.global_tensors().keys() == {"anchor", "outer_momentum_buffer"}
    for kind, tensors in loop.global_tensors().items():
        for name, tensor in tensors.items():
            continued.global_tensors()[kind][name].copy_(tensor)
    continued.load_state_dict(loop.state_dict())
    for number in range(6, 14):
        step(number, parameters, loop)
        step(number, other, continued)
        assert all(torch.equal(parameters[name], other[name]) for name in SHAPES)


def test_workers_that_start_apart_are_stopped() -> None:
    group = InProcessGroup(3)

    def work(rank: int):
        parameters = start()
        if rank == 1:
            parameters["b"][3] = math.nextafter(parameters["b"][3].item(), 9.0) + 1e-6
        _, loop = build(group, rank, interval=1, parameters=parameters)
        loop.after_inner_step(1)

    with pytest.raises(AnchorMismatch, match="worker 0: [0-9a-f]{16}, worker 1: [0-9a-f]{16}, worker 2"):
        run_workers(group, work)


def test_non_finite_pseudogradient_names_worker_and_tensor() -> None:
    group = InProcessGroup(2)

    def work(rank: int):
        parameters, loop = build(group, rank, interval=1)
        if rank == 1:
            parameters["b"][3] = math.inf
        try:
            loop.after_inner_step(1)
        except NonFinitePseudogradient as error:
            return str(error)

    healthy, guilty = run_workers(group, work)
    assert "worker [1]" in healthy
    assert "worker [1]; on worker 1 in b" in guilty


def test_impossible_loops_are_refused() -> None:
    with pytest.raises(ValueError, match="sync_interval must be at least 1; got 0"):
        build(InProcessGroup(1), 0, interval=0)
    with pytest.raises(ValueError, match="class_name must be sgd; got 'adam'"):
        build_outer_optimizer([torch.ones(1)], class_name="adam", lr=1.0, momentum=0.0, nesterov=False)
