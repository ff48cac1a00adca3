"""MuLoCo1 as a torch optimizer. Oracles: the paper's algorithm in double precision, the training system's K = 1 run."""

import copy
import importlib
import io
import math
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

from muloco.outer import Crowd, OuterLoop
from muloco.outer.in_process import InProcessGroup
from muloco.pytorch import MuLoCo1, Muon
from muloco.training.config import OuterOptimizer
from muloco.training.outer import build_outer_optimizer

from .coefficients import MULOCO


@pytest.fixture(autouse=True)
def single_precision(monkeypatch):
    """One thread, and products in float32 whatever the hardware likes."""
    module = importlib.import_module("muloco.optim.orthogonalize")
    monkeypatch.setattr(module, "_fast_dtype", lambda device_type: torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 9), nn.Tanh(), nn.LayerNorm(9), nn.Linear(9, 11))


def loss_of(model, step):
    tokens = torch.randint(11, (8,), generator=torch.Generator().manual_seed(step))
    return nn.functional.cross_entropy(model(tokens), (3 * tokens + 1) % 11)


def train(model, optimizer, steps, first=0, scheduler=None):
    for step in range(first, first + steps):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def weights(model):
    return [param.detach().clone() for param in model.parameters()]


def assert_same(ones, others):
    assert all(map(torch.equal, ones, others))


def give_gradients(params, step):
    """Of no model, so that both precisions see the same ones."""
    generator = torch.Generator().manual_seed(1000 + step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)


# --- the paper, slowly ------------------------------------------------------------------------------------------------


def slow_muon(x, g, own, lr, weight_decay):
    own["m"] = 0.9 * own.get("m", 0) + g
    u, s, vh = torch.linalg.svd(own["m"], full_matrices=False)
    s = s / s.norm()
    for a, b, c in MULOCO:
        s = a * s + b * s**3 + c * s**5
    rows, cols = x.shape
    return x - lr * weight_decay * x - lr * math.sqrt(rows / cols) * (u @ torch.diag(s) @ vh)


def slow_adamw(x, g, own, lr, weight_decay):
    own["t"] = own.get("t", 0) + 1
    own["m"] = 0.9 * own.get("m", 0) + 0.1 * g
    own["v"] = 0.99 * own.get("v", 0) + 0.01 * g * g
    u = own["m"] / (1 - 0.9 ** own["t"]) / ((own["v"] / (1 - 0.99 ** own["t"])).sqrt() + 1e-8)
    return x - lr * weight_decay * x - lr * u


def slow_muloco(params, steps, lr, outer_lr, outer_momentum, interval, weight_decay):
    """Algorithm 1 as printed (PAPER 3.1): u <- mu u + eta g; theta = anchor - mu u - eta g. The end may be short."""
    x = [param.detach().double() for param in params]
    inner = [{} for _ in x]
    anchor, u = list(x), [torch.zeros_like(value) for value in x]
    for step in range(1, steps + 1):
        give_gradients(params, step)
        for index, param in enumerate(params):
            rule = slow_muon if param.ndim == 2 else slow_adamw
            x[index] = rule(x[index], param.grad.double(), inner[index], lr, weight_decay)
        if step % interval == 0 or step == steps:
            for index, value in enumerate(x):
                g = anchor[index] - value
                u[index] = outer_momentum * u[index] + outer_lr * g
                anchor[index] = anchor[index] - outer_momentum * u[index] - outer_lr * g
            x = list(anchor)
    return x


def some_parameters():
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(6, 4), (4, 9), (6, 4), (5,), ()]]


def by_dimension(params):
    return [{"params": [param], "algorithm": "muon" if param.ndim == 2 else "adamw"} for param in params]


@pytest.mark.parametrize(
    ("outer_lr", "outer_momentum", "interval", "weight_decay"),
    [(0.7, 0.6, 30, 0.01), (0.7, 0.6, 4, 0.01), (1.3, 0.8, 3, 0.2), (0.5, 0.0, 5, 0.0), (1.0, 0.0, 1, 0.1)],
)
def test_is_the_papers_algorithm(outer_lr, outer_momentum, interval, weight_decay):
    params = some_parameters()
    expected = slow_muloco(params, 14, 0.02, outer_lr, outer_momentum, interval, weight_decay)
    optimizer = MuLoCo1(by_dimension(params), 0.02, outer_lr, outer_momentum, interval, weight_decay)
    for step in range(1, 15):
        give_gradients(params, step)
        optimizer.step()
    optimizer.flush()
    for param, value in zip(params, expected, strict=True):
        torch.testing.assert_close(param.detach().double(), value, rtol=0, atol=2e-4)


def test_the_defaults_are_the_papers_for_one_worker():
    group = MuLoCo1(build_model()).param_groups[0]
    names = ["lr", "outer_lr", "outer_momentum", "sync_interval", "weight_decay", "momentum", "nesterov", "adjust_lr"]
    assert [group[name] for name in names] == [0.02, 0.7, 0.6, 30, 0.01, 0.9, False, "spectral_norm"]
    assert (group["orthogonalization"], group["steps"], group["eps"]) == ("muloco", None, 1e-8)
    assert MuLoCo1(build_model()).param_groups[1]["betas"] == (0.9, 0.99)


# --- the training system's K = 1 run ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_is_the_training_systems_run_with_one_worker_bit_by_bit(dtype):
    """OuterLoop around two optimizers, with a schedule, over four windows and a short one."""
    model, other = build_model().to(dtype), build_model().to(dtype)
    optimizer = MuLoCo1(model, 0.05, 0.7, 0.6, sync_interval=4, weight_decay=0.1)

    matrices, rest = [other[1].weight, other[4].weight], [other[0].weight, other[1].bias, *other[3].parameters()]
    rest.append(other[4].bias)
    inner = [
        Muon(matrices, 0.05, weight_decay=0.1),
        torch.optim.AdamW(rest, 0.05, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1),
    ]
    outer = partial(build_outer_optimizer, OuterOptimizer(lr=0.7, momentum=0.6))
    tensors = {name: param.data for name, param in other.named_parameters()}
    loop = OuterLoop(tensors, outer, InProcessGroup(1).transport(0), crowd=Crowd(), sync_interval=4)

    decay = partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: 0.9**step)
    schedulers = [decay(optimizer), *map(decay, inner)]
    for step in range(1, 19):
        train(model, optimizer, 1, first=step)
        for each in inner:
            each.zero_grad()
        loss_of(other, step).backward()
        for each in inner:
            each.step()
        loop.after_inner_step(step, last=step == 18)
        if step == 18:
            optimizer.flush()
        for scheduler in schedulers:
            scheduler.step()
        assert_same(weights(model), weights(other))
    anchors = [optimizer.state[param]["anchor"] for param in model.parameters()]
    assert_same(anchors, loop.global_tensors()["anchor"].values())


# --- state ------------------------------------------------------------------------------------------------------------


def test_state_is_the_inner_ones_one_snapshot_and_one_momentum():
    model = build_model()
    start = weights(model)
    optimizer = MuLoCo1(model, sync_interval=5)
    assert not optimizer.state
    train(model, optimizer, 2)
    for param, value in zip(model.parameters(), start, strict=True):
        own = optimizer.state[param]
        assert set(own) - {"momentum_buffer", "step", "exp_avg", "exp_avg_sq"} == {"anchor", "outer_momentum"}
        assert torch.equal(own["anchor"], value) and own["outer_momentum"].count_nonzero() == 0
        assert own["anchor"].data_ptr() != param.data_ptr()


def test_the_outer_step_is_in_place():
    model = build_model()
    optimizer = MuLoCo1(model, sync_interval=2)
    before = [param.data_ptr() for param in model.parameters()]
    train(model, optimizer, 2)
    kept = [optimizer.state[param]["anchor"].data_ptr() for param in model.parameters()]
    train(model, optimizer, 2)
    assert [param.data_ptr() for param in model.parameters()] == before
    assert [optimizer.state[param]["anchor"].data_ptr() for param in model.parameters()] == kept


def test_weights_loaded_before_the_first_step_are_the_anchor():
    model = build_model()
    optimizer = MuLoCo1(model, sync_interval=2)
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})
    start = weights(model)
    train(model, optimizer, 1)
    with optimizer.anchor_weights():
        assert_same(weights(model), start)


@pytest.mark.parametrize("saved_after", [0, 1, 3, 4, 5, 8])
def test_resumes_bit_by_bit_from_any_step(saved_after):
    """Through a file that torch.load reads as weights only, in the middle of a window or between two."""
    straight = build_model()
    optimizer = MuLoCo1(straight, sync_interval=4)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 11)
    train(straight, optimizer, 11, scheduler=scheduler)

    model = build_model()
    optimizer = MuLoCo1(model, sync_interval=4)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 11)
    train(model, optimizer, saved_after, scheduler=scheduler)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), scheduler.state_dict()], file)

    file.seek(0)
    parts = torch.load(file, weights_only=True)
    model = build_model()
    optimizer = MuLoCo1(model, 0.9, 0.1, 0.1, sync_interval=7)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 11)
    for each, part in zip([model, optimizer, scheduler], parts, strict=True):
        each.load_state_dict(part)
    train(model, optimizer, 11 - saved_after, first=saved_after, scheduler=scheduler)
    assert_same(weights(model), weights(straight))


def test_a_copy_goes_on_alike():
    model = build_model()
    optimizer = MuLoCo1(model, sync_interval=4)
    train(model, optimizer, 6)
    other, copied = copy.deepcopy((model, optimizer))
    for each, its in ((model, optimizer), (other, copied)):
        train(each, its, 7, first=6)
    assert_same(weights(model), weights(other))


# --- windows ----------------------------------------------------------------------------------------------------------


def test_flush_ends_a_short_window_once():
    model, other = build_model(), build_model()
    optimizer, shorter = MuLoCo1(model, sync_interval=30), MuLoCo1(other, sync_interval=3)
    train(model, optimizer, 3)
    train(other, shorter, 3)
    before = weights(model)
    optimizer.flush()
    assert not torch.equal(before[0], weights(model)[0])
    assert_same(weights(model), weights(other))
    optimizer.flush()
    assert_same(weights(model), weights(other))


def test_the_anchor_can_be_evaluated_and_training_goes_on_from_the_local_weights():
    model, other = build_model(), build_model()
    start = weights(model)
    optimizer, undisturbed = MuLoCo1(model, sync_interval=4), MuLoCo1(other, sync_interval=4)
    train(model, optimizer, 3)
    ahead = weights(model)
    with pytest.raises(KeyError), optimizer.anchor_weights():
        assert_same(weights(model), start)
        loss_of(model, 0).backward()  # gradients are recorded as usual
        raise KeyError("out of the middle")
    assert_same(weights(model), ahead)
    train(model, optimizer, 1, first=3)
    with optimizer.anchor_weights():
        at_sync = weights(model)
    assert_same(at_sync, weights(model))
    train(model, optimizer, 5, first=4)
    train(other, undisturbed, 9)
    assert_same(weights(model), weights(other))


def test_no_step_at_the_anchor():
    model = build_model()
    optimizer = MuLoCo1(model, sync_interval=4)
    train(model, optimizer, 1)
    loss_of(model, 0).backward()
    with optimizer.anchor_weights():
        for call in (optimizer.step, optimizer.flush, optimizer.anchor_weights().__enter__):
            with pytest.raises(RuntimeError, match="leave it first"):
                call()
    optimizer.step()
    assert optimizer.param_groups[0]["window"] == 2


def test_parameters_without_gradient_are_left_alone_and_get_no_state():
    model = build_model()
    model[4].requires_grad_(False)
    still = weights(model[4])
    optimizer = MuLoCo1(model, sync_interval=2)
    train(model, optimizer, 5)
    assert_same(weights(model[4]), still)
    assert not set(model[4].parameters()) & set(optimizer.state)


def test_a_parameter_whose_gradient_comes_late_has_its_own_anchor():
    """As in OuterLoop: it stands still until then, and the outer momentum goes on moving it afterwards."""
    param, other = nn.Parameter(torch.eye(3)), nn.Parameter(torch.eye(3))
    optimizer = MuLoCo1([param, other], 0.1, 0.5, 0.5, sync_interval=2, weight_decay=0.0)
    param.grad = torch.ones(3, 3)
    for step in range(6):
        other.grad = torch.eye(3) if step == 3 else None
        optimizer.step()
        if step < 3:
            assert torch.equal(other, torch.eye(3))
    # g = d at the 2nd sync, 0 at the 3rd: theta = 1 - .5 (d + .5 d) - .5 (.5 (.5 d)), d = lr s(1 / sqrt 3)
    s = 3**-0.5
    for a, b, c in MULOCO:
        s = a * s + b * s**3 + c * s**5
    expected = torch.eye(3) * (1 - (0.75 + 0.125) * 0.1 * s)
    torch.testing.assert_close(other.detach(), expected, rtol=0, atol=1e-5)


def test_groups_have_their_own_outer_options():
    values = []
    for options in ({"outer_lr": 1.3, "outer_momentum": 0.1, "sync_interval": 3}, {}):
        params = some_parameters()[:2]
        alone = MuLoCo1([{"params": [params[0]], **options}], 0.1)
        beside = MuLoCo1([{"params": [params[1]]}], 0.1)
        together = MuLoCo1([{"params": [p], **o} for p, o in zip(some_parameters(), (options, {}), strict=False)], 0.1)
        others = [group["params"][0] for group in together.param_groups]
        for step in range(8):
            for given in (params, others):
                give_gradients(given, step)
            for optimizer in (alone, beside, together):
                optimizer.step()
        assert_same(params, others)
        values.append(params[0].detach().clone())
    assert not torch.equal(*values)


def test_an_added_group_ends_its_first_window_with_the_others():
    params = some_parameters()
    optimizer = MuLoCo1(by_dimension(params[:1]), 0.1, sync_interval=4)
    for step in range(6):
        if step == 3:
            optimizer.add_param_group({"params": [params[1]], "lr": 0.3})
            optimizer.add_param_group({"params": [params[2]], "sync_interval": 3})
        give_gradients(params, step)
        optimizer.step()
    assert [group["window"] for group in optimizer.param_groups] == [2, 2, 0]
    assert optimizer.param_groups[1]["lr"] == 0.3
    assert not torch.equal(optimizer.state[params[1]]["anchor"], some_parameters()[1])


# --- what torch does with optimizers ----------------------------------------------------------------------------------


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
    optimizer, plain = MuLoCo1(model, torch.tensor(0.02), sync_interval=2), MuLoCo1(other, sync_interval=2)
    step = torch.compile(optimizer.step, backend="eager")
    for index in range(3):
        optimizer.zero_grad()
        loss_of(model, index).backward()
        step()
    train(other, plain, 3)
    for value, expected in zip(weights(model), weights(other), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


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
assert rooms == {"optim", "pytorch", "sharding"}, rooms
"""
    subprocess.run([sys.executable, "-c", code], check=True)


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
        (lambda: MuLoCo1([{"params": [torch.eye(2)], "inner_lr": 0.1}]), "called lr"),
        (lambda: MuLoCo1([{"params": [torch.eye(2)], "outer_lr": -0.5}]), "outer_lr must be at least 0, not -0.5"),
        (lambda: MuLoCo1([("a", torch.eye(2)), ("b", torch.ones(2, dtype=torch.int32))]), "'b' has torch.int32"),
    ],
)
def test_mistakes_are_explained(make, message):
    with pytest.raises(ValueError, match=message):
        make()
