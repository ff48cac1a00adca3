"""MuLoCo1's windows and state. Oracles: the paper's algorithm in double precision, the training system's K = 1 run."""

import copy
import io
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from muloco.outer import OuterLoop, WorkerIdentity
from muloco.outer.in_process import InProcessGroup
from muloco.pytorch import MuLoCo1, Muon
from muloco.settings.outer import OuterOptimizer
from muloco.training.outer import build_outer_optimizer

from ..coefficients import MULOCO
from .toy import assert_same, build_model, loss_of, train, weights

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


def give_gradients(params, step):
    """Of no model, so that both precisions see the same ones."""
    generator = torch.Generator().manual_seed(1000 + step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)


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

    scalars = [other[1].bias, *other[3].parameters(), other[4].bias]
    rest = [{"params": [other[0].weight, other[4].weight]}, {"params": scalars, "weight_decay": 0.0}]
    inner = [
        Muon([other[1].weight], 0.05, weight_decay=0.1),
        torch.optim.AdamW(rest, 0.05, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1),
    ]
    outer = partial(build_outer_optimizer, OuterOptimizer(lr=0.7, momentum=0.6))
    tensors = {name: param.data for name, param in other.named_parameters()}
    loop = OuterLoop(tensors, outer, InProcessGroup(1).transport(0), identity=WorkerIdentity(), sync_interval=4)

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
    assert_same(anchors, loop.snapshot(own=False).tensors["anchor"].values())


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
