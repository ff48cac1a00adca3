"""Each outer optimizer against another's arithmetic on the mean pseudogradient; the outer schedule; local SGD."""

import importlib
import math
from collections.abc import Callable, Mapping
from functools import partial

import pytest
import torch
from torch import Tensor

from muloco.optim import Muon
from muloco.resolve import resolve
from muloco.settings.config import Config
from muloco.settings.outer import OuterOptimizer
from muloco.training.outer import build_outer_optimizer, outer_learning_rate

from ..reference import Nesterov
from ..toy import SHAPES, Case, assert_equals_reference, drift, start, train_in_process

CASE = Case(workers=3, fragments=2, interval=5, steps=17, delay=1, alpha=0.5)


class OnWholeTensors:
    """An outer step of the reference by an optimizer of its own for each tensor."""

    def __init__(self, build: Callable[[str, Tensor], torch.optim.Optimizer]):
        self.build, self.optimizers = build, {}

    def __call__(self, anchor: Mapping[str, Tensor], mean: Mapping[str, Tensor], lr: float) -> None:
        for name, tensor in anchor.items():
            if name not in self.optimizers:
                parameter = torch.nn.Parameter(tensor.clone())
                self.optimizers[name] = parameter, self.build(name, parameter)
            parameter, optimizer = self.optimizers[name]
            parameter.grad = mean[name].to(parameter.dtype)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            tensor.copy_(parameter.detach())


def build(chosen: OuterOptimizer) -> dict:
    return {"build": partial(build_outer_optimizer, chosen)}


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize(("lr", "momentum"), [(0.7, 0.6), (1.3, 0.8), (0.9, 0.0)])
def test_sgd_is_the_normative_step(lr: float, momentum: float, nesterov: bool) -> None:
    chosen = OuterOptimizer(lr=lr, momentum=momentum, nesterov=nesterov)
    expected = CASE.expected(outer=Nesterov(momentum, nesterov), lr=lambda step: lr)
    assert_equals_reference(train_in_process(CASE, **build(chosen)), expected, chosen)


def test_the_paper_s_form_is_the_same_at_a_constant_rate() -> None:
    """PAPER 3.1, Algorithm 1: u <- m u + lr D; theta <- theta - m u - lr D."""
    state = {}

    def algorithm_1(anchor: Mapping[str, Tensor], mean: Mapping[str, Tensor], lr: float) -> None:
        for name, delta in mean.items():
            state[name] = 0.6 * state.get(name, 0 * delta) + lr * delta
            anchor[name].sub_(0.6 * state[name] + lr * delta)

    results = train_in_process(CASE, **build(OuterOptimizer(lr=0.7, momentum=0.6)))
    assert_equals_reference(results, CASE.expected(outer=algorithm_1), "Algorithm 1")


def test_adamw_is_torchs_without_decay() -> None:
    chosen = OuterOptimizer(class_name="adamw", lr=0.05, momentum=0.0, beta1=0.7, beta2=0.95, eps=1e-6)

    def torchs(name: str, parameter: Tensor) -> torch.optim.Optimizer:
        return torch.optim.Adam([parameter], lr=1.0, betas=(0.7, 0.95), eps=1e-6)

    expected = CASE.expected(outer=OnWholeTensors(torchs), lr=lambda step: 0.05)
    assert_equals_reference(train_in_process(CASE, **build(chosen)), expected, "adamw")


def test_muon_takes_the_matrices_and_adamw_the_rest() -> None:
    """Matrix by matrix; which of them are matrices is said by hand."""
    chosen = OuterOptimizer(class_name="muon", lr=0.05, momentum=0.8, nesterov=True, beta1=0.7, beta2=0.95)
    matrices = ["layers.0.wq", "layers.1.wq", "layers.1.bias"]  # the head is none

    def by_hand(name: str, parameter: Tensor) -> torch.optim.Optimizer:
        if name not in matrices:
            return torch.optim.Adam([parameter], lr=1.0, betas=(0.7, 0.95), eps=1e-8)
        parameter.data = parameter.data.float()
        return Muon([parameter], lr=1.0, momentum=0.8, nesterov=True)

    expected = CASE.expected(outer=OnWholeTensors(by_hand), lr=lambda step: 0.05)
    results = train_in_process(CASE, **build(chosen))
    for result in results:
        assert result.digests == results[0].digests and result.history == expected.syncs
        for name, value in expected.anchor.items():
            torch.testing.assert_close(result.parameters[name].double(), value, rtol=1e-3, atol=1e-3, msg=name)


def test_muon_is_computed_in_the_same_way_on_every_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices by timing could differ between workers, and so could their anchors."""
    newton_schulz = importlib.import_module("muloco.optim.newton_schulz")
    asked, original = [], newton_schulz.orthogonal_direction

    def recorded(*args, symmetric_products: str, **options) -> Tensor:
        asked.append(symmetric_products)
        return original(*args, symmetric_products=symmetric_products, **options)

    monkeypatch.setattr(newton_schulz, "orthogonal_direction", recorded)
    anchor = torch.nn.Parameter(torch.ones(3, 2))
    anchor.grad = torch.ones(3, 2)
    build_outer_optimizer(OuterOptimizer(class_name="muon", lr=0.1, momentum=0.8), {"wq": anchor}).step()
    assert asked == ["matmul"]


def test_muon_steps_stacks_and_fused_projections_matrix_by_matrix() -> None:
    """A fragment need not have all of the fused projections that the flavor names."""
    chosen, generator = OuterOptimizer(class_name="muon", lr=0.1, momentum=0.8), torch.Generator().manual_seed(0)
    anchor = {
        "layers.0.wqkv.weight": torch.randn(6, 3, generator=generator),
        "layers.0.experts.w1": torch.randn(2, 4, 3, generator=generator),
    }
    fused, experts = anchor.values()
    apart = [*(part.clone() for part in fused.split([4, 2])), *experts.clone()]
    for tensor in (*anchor.values(), *apart):
        tensor.grad = tensor.sin()
    build_outer_optimizer(chosen, anchor, fused={"wqkv": (4, 2), "w13": (2, 2)}).step()
    Muon(apart, 0.1, momentum=0.8, nesterov=chosen.nesterov).step()
    assert torch.equal(fused, torch.cat(apart[:2])) and torch.equal(experts, torch.stack(apart[2:]))


def test_local_sgd_is_the_average_of_the_parameters() -> None:
    """Outer lr 1 without momentum, every step."""
    case = Case(workers=3, interval=2, steps=8)
    chosen = OuterOptimizer(lr=1.0, momentum=0.0)
    workers = [start() for _ in range(3)]
    for step in range(1, 9):
        for worker, parameters in enumerate(workers):
            for name, change in drift(worker, step).items():
                parameters[name] += change
        if step % 2 == 0:
            for name in SHAPES:
                average = torch.stack([parameters[name].double() for parameters in workers]).mean(0)
                for parameters in workers:
                    parameters[name] = average.float()
    for result in train_in_process(case, **build(chosen)):
        for name, value in workers[0].items():
            torch.testing.assert_close(result.parameters[name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "closed_form"),
    [
        ("constant", lambda part: 0.8),
        ("linear", lambda part: 0.8 * (0.25 + 0.75 * (1 - part))),
        ("cosine", lambda part: 0.8 * (0.25 + 0.75 * (1 + math.cos(math.pi * part)) / 2)),
    ],
)
def test_the_outer_rate_falls_as_its_schedule_says(schedule: str, closed_form: Callable[[float], float]) -> None:
    config = Config()
    config.outer_optimizer = OuterOptimizer(lr=0.8, momentum=0.5, schedule=schedule, min_lr_factor=0.25)
    config.training.steps = CASE.steps
    rate = outer_learning_rate(resolve(config))
    for step in range(CASE.steps + 1):
        assert rate(step) == pytest.approx(closed_form(step / CASE.steps), abs=1e-12)
    expected = CASE.expected(outer=Nesterov(0.5), lr=lambda step: closed_form(step / CASE.steps))
    results = train_in_process(CASE, **build(config.outer_optimizer), learning_rate=rate)
    assert_equals_reference(results, expected, schedule)
