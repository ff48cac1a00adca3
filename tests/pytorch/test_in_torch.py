"""MuLoCo1 as a torch optimizer: what torch does with optimizers, and what users get wrong."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

from muloco.pytorch import MuLoCo1, Muon

from .toy import assert_same, build_model, loss_of, train, weights


def test_a_step_that_a_gradient_scaler_skips_does_not_count():
    model, other = build_model(), build_model()
    optimizer, plain = MuLoCo1(model, sync_interval=3), MuLoCo1(other, sync_interval=3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    taken = 0
    for step in range(9):
        overflow = step in (1, 4)
        optimizer.zero_grad()
        scaler.scale(loss_of(model, taken)).backward()
        if overflow:
            model[1].weight.grad[0, 0] = math.inf
        scaler.step(optimizer)
        scaler.update()
        taken += not overflow
        assert optimizer.param_groups[0]["window"] == taken % 3
    train(other, plain, 7)
    for value, expected in zip(weights(model), weights(other), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_hooks_run_once_a_step():
    calls = []
    for optimizer in (Muon(build_model(), 0.1), MuLoCo1(build_model())):
        optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
        optimizer.register_step_post_hook(lambda *_: calls.append("post"))
        optimizer.step()
    assert calls == ["pre", "post"] * 2


def test_closures():
    model, other = build_model(), build_model()
    optimizer, plain = MuLoCo1(model, sync_interval=2), MuLoCo1(other, sync_interval=2)
    for step in range(5):

        def closure(step=step):
            optimizer.zero_grad()
            loss = loss_of(model, step)
            loss.backward()
            return loss

        assert optimizer.step(closure).requires_grad
    train(other, plain, 5)
    assert_same(weights(model), weights(other))


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.5**step),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.5),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 1, gamma=0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 3]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, total_iters=2),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.5),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 8),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 8),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=10),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=2), lr_scheduler.ExponentialLR(o, 0.5)], milestones=[2]
    ),
    "SWALR": lambda o: SWALR(o, 0.001, anneal_epochs=4),
}


def test_every_scheduler_of_torch_is_tried():
    assert set(SCHEDULERS) - {"SWALR"} == set(lr_scheduler.__all__) - {"LRScheduler"}


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["float", "tensor"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_drive_the_inner_steps_of_both_rules(name, lr):
    """The very rates that the scheduler wrote, set by hand, give the same weights."""
    model, other = build_model(), build_model()
    optimizer = MuLoCo1(model, lr.clone() if isinstance(lr, torch.Tensor) else lr, sync_interval=3)
    scheduler = SCHEDULERS[name](optimizer)
    by_hand = MuLoCo1(other, 0.1, sync_interval=3)
    rates = []
    for step in range(8):
        for group, written in zip(by_hand.param_groups, optimizer.param_groups, strict=True):
            group["lr"] = float(written["lr"])
            group["momentum"] = written["momentum"]  # which some of them cycle
        rates.append(float(optimizer.param_groups[0]["lr"]))
        train(other, by_hand, 1, first=step)
        train(model, optimizer, 1, first=step)
        scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
    assert len(set(rates)) > 1
    for value, expected in zip(weights(model), weights(other), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR"])
def test_cycled_momentum_is_muons(name):
    optimizer = MuLoCo1(build_model())
    scheduler = SCHEDULERS[name](optimizer)
    momenta = set()
    for _ in range(5):
        momenta.add(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        scheduler.step()
    assert len(momenta) > 2
    assert optimizer.param_groups[1]["betas"] == (0.9, 0.99)


def test_a_compiled_step_gives_the_same_numbers():
    model, other = build_model(), build_model()
    optimizer, plain = (MuLoCo1(each, torch.tensor(0.02), sync_interval=2) for each in (model, other))
    step = torch.compile(optimizer.step, backend="eager")
    for index in range(3):
        optimizer.zero_grad()
        loss_of(model, index).backward()
        step()
    train(other, plain, 3)
    assert_same(weights(model), weights(other))


def test_needs_torch_alone():
    """With every installed package refused but torch and what it asks for."""
    code = """
import importlib.metadata, re, sys
def normal(name): return re.sub("[-_.]+", "-", name).lower()
needed, todo = set(), ["torch"]
while todo:
    needed.add(normal(todo[-1]))
    try:
        lines = importlib.metadata.requires(todo.pop()) or []
    except importlib.metadata.PackageNotFoundError:
        continue
    names = [re.match("[A-Za-z0-9._-]+", line).group() for line in lines if "extra ==" not in line]
    todo += [name for name in names if normal(name) not in needed]
for top, owners in importlib.metadata.packages_distributions().items():
    if top != "muloco" and not needed & set(map(normal, owners)):
        sys.modules[top] = None
try:
    import numpy
    sys.exit("the test refuses nothing")
except ModuleNotFoundError:
    pass
import torch
from muloco.pytorch import MuLoCo1, Muon
model = torch.nn.Linear(3, 3)
optimizer = MuLoCo1(model)
model(torch.ones(2, 3)).sum().backward()
optimizer.step()
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("muloco.")}
assert rooms == {"optim", "pytorch", "sharding", "suggest"}, rooms
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_type_checkers_are_told_that_there_are_types():
    """PEP 561: a marker in the package; tests/install/test_wheel.py looks for it in the wheel."""
    import muloco

    assert Path(muloco.__path__[0], "py.typed").is_file()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MuLoCo1(build_model(), -0.1), "lr must be at least 0, not -0.1"),
        (lambda: MuLoCo1(build_model(), outer_lr=-1.0), "outer_lr must be at least 0, not -1.0"),
        (lambda: MuLoCo1(build_model(), outer_momentum=1.0), r"outer_momentum must be in \[0, 1\), not 1.0"),
        (lambda: MuLoCo1(build_model(), sync_interval=0), "sync_interval must be an integer of at least 1, not 0"),
        (lambda: MuLoCo1(build_model(), sync_interval=2.5), "sync_interval .* not 2.5"),
        (lambda: MuLoCo1(build_model(), weight_decay=-1.0), "weight_decay must be at least 0, not -1.0"),
        (lambda: MuLoCo1(build_model(), betas=(0.9, 1.5)), r"betas\[1\] must be in \[0, 1\), not 1.5"),
        (lambda: MuLoCo1(build_model(), orthogonalization="polar"), "unknown orthogonalization preset 'polar'"),
        (lambda: MuLoCo1([{"params": [torch.eye(2)], "inner_lr": 0.1}]), "use lr"),
        (lambda: MuLoCo1([{"params": [torch.eye(2)], "outer_lr": -0.5}]), "outer_lr must be at least 0, not -0.5"),
        (lambda: MuLoCo1([("a", torch.eye(2)), ("b", torch.ones(2, dtype=torch.int32))]), "'b' has torch.int32"),
    ],
)
def test_mistakes_are_explained(make, message):
    with pytest.raises(ValueError, match=message):
        make()
