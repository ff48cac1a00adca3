"""Oracles: a straight-line Muon on singular values in double precision, and torch.optim.Muon where the two coincide."""

import importlib
import math

import pytest
import torch
from torch.optim import lr_scheduler
from torch.utils._python_dispatch import TorchDispatchMode

from muloco.optim import PRESETS, Muon

from ..coefficients import MULOCO, QUINTIC

SHAPES = [(6, 6), (9, 4), (4, 9), (9, 4), (1, 5), (6, 6), (9, 4)]


@pytest.fixture(autouse=True)
def single_precision(monkeypatch):
    """One thread, and products in float32 whatever the hardware likes."""
    module = importlib.import_module("muloco.optim.newton_schulz")
    monkeypatch.setattr(module, "_fast_dtype", lambda device_type: torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def parameters(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def give_gradients(params, step):
    generator = torch.Generator().manual_seed(1000 + step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)


def run(optimizer, params, steps=4, first=0):
    for step in range(first, first + steps):
        give_gradients(params, step)
        optimizer.step()


def polynomial(matrix, triples):
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.norm()
    for a, b, c in triples:
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag(s) @ vh


def reference(params, steps, lr, momentum, nesterov, weight_decay, adjust_lr, triples):
    result = []
    gradients = []
    for step in range(steps):
        give_gradients(params, step)
        gradients.append([param.grad.double() for param in params])
    for index, param in enumerate(params):
        x = param.detach().double()
        rows, cols = x.shape
        scales = {"spectral_norm": (rows / cols) ** 0.5, "rms_norm": 0.2 * max(rows, cols) ** 0.5, "none": 1.0}
        m = torch.zeros_like(x)
        for step in range(steps):
            g = gradients[step][index]
            m = momentum * m + g
            u = g + momentum * m if nesterov else m
            x = x - lr * weight_decay * x
            x = x - lr * scales[adjust_lr] * polynomial(u, triples)
        result.append(x)
    return result


def assert_equal(params, others, **tolerance):
    for param, other in zip(params, others, strict=True):
        torch.testing.assert_close(param.detach().double(), other.detach().double(), **tolerance)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("adjust_lr", ["spectral_norm", "rms_norm", "none"])
@pytest.mark.parametrize("preset", ["muloco", "quintic"])
def test_is_the_straight_line_algorithm(momentum, nesterov, weight_decay, adjust_lr, preset):
    params = parameters()
    triples = {"muloco": MULOCO, "quintic": QUINTIC}[preset]
    expected = reference(params, 4, 0.05, momentum, nesterov, weight_decay, adjust_lr, triples)
    optimizer = Muon(
        params,
        0.05,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        adjust_lr=adjust_lr,
        orthogonalization=preset,
    )
    run(optimizer, params)
    assert_equal(params, expected, rtol=0, atol=2e-4)


def test_the_defaults_are_the_papers():
    params = parameters()
    expected = reference(params, 4, 0.05, 0.9, False, 0.0, "spectral_norm", MULOCO)
    run(Muon(params, 0.05), params)
    assert_equal(params, expected, rtol=0, atol=2e-4)


def test_steps_reach_the_orthogonalization():
    params = parameters()
    expected = reference(params, 4, 0.05, 0.9, False, 0.0, "spectral_norm", MULOCO[:2])
    run(Muon(params, 0.05, steps=2), params)
    assert_equal(params, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("elements", [1, 40, 80, 2**40])
def test_how_matrices_are_batched_does_not_matter(monkeypatch, elements):
    params, others = parameters(), parameters()
    run(Muon(params, 0.05), params)
    monkeypatch.setitem(importlib.import_module("muloco.optim.owners").BATCH_ELEMENTS, "cpu", elements)
    run(Muon(others, 0.05), others)
    assert_equal(params, others, rtol=0, atol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs", "shape"),
    [
        ("spectral_norm", "original", (9, 4)),
        ("spectral_norm", None, (6, 6)),
        ("rms_norm", "match_rms_adamw", (4, 9)),
        ("rms_norm", "match_rms_adamw", (9, 4)),
    ],
)
def test_agrees_with_torch(monkeypatch, nesterov, ours, theirs, shape):
    """Torch averages, B <- mu B + (1 - mu) G, so its update is (1 - mu) times ours, which orthogonalization undoes.

    Its scale sqrt(max(1, rows / cols)) is our spectral one unless the matrix is wide. It computes in bfloat16; here it
    is held to the precision of its input.
    """
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    param = torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    other = torch.nn.Parameter(param.detach().clone())
    options = {"lr": 0.05, "momentum": 0.8, "nesterov": nesterov, "weight_decay": 0.3}
    run(Muon([param], adjust_lr=ours, orthogonalization="quintic", **options), [param])
    run(torch.optim.Muon([other], adjust_lr_fn=theirs, **options), [other])
    assert_equal([param], [other], rtol=0, atol=1e-4)


def test_momentum_is_a_sum_and_the_only_state():
    params = parameters()
    optimizer = Muon(params, 0.05, momentum=0.5)
    for _ in range(2):
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
    for param in params:
        assert list(optimizer.state[param]) == ["momentum_buffer"]
        assert torch.equal(optimizer.state[param]["momentum_buffer"], torch.full_like(param, 1.5))
        assert torch.equal(param.grad, torch.ones_like(param))


def test_keeps_low_precision_parameters_in_their_dtype():
    params = parameters(torch.bfloat16)
    expected = reference(params, 2, 0.05, 0.9, False, 0.1, "none", MULOCO)
    optimizer = Muon(params, 0.05, weight_decay=0.1, adjust_lr="none")
    run(optimizer, params, steps=2)
    assert all(param.dtype == optimizer.state[param]["momentum_buffer"].dtype == torch.bfloat16 for param in params)
    assert_equal(params, expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_with_products_in_bfloat16(monkeypatch, preset, dtype):
    """The inputs' mean gives every gradient a direction with some 0.4 of its norm, which made the eight steps of Polar
    Express overflow."""
    module = importlib.import_module("muloco.optim.newton_schulz")
    monkeypatch.setattr(module, "_fast_dtype", lambda device_type: torch.bfloat16)
    torch.manual_seed(0)
    layers = [torch.nn.Linear(96, 264, bias=False), torch.nn.Tanh(), torch.nn.Linear(264, 96, bias=False)]
    model = torch.nn.Sequential(*layers).to(dtype)
    optimizer = Muon(list(model.parameters()), 0.05, orthogonalization=preset)
    inputs = (torch.randn(128, 96) + 0.3).to(dtype)
    targets = inputs.float().flip(1)
    losses = []
    for _ in range(20):
        with torch.autocast("cpu", torch.bfloat16):
            loss = (model(inputs).float() - targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_parameters_without_gradient_are_left_alone():
    params = parameters()
    still = params[1].detach().clone()
    optimizer = Muon(params, 0.05, weight_decay=0.3)
    give_gradients(params, 0)
    params[1].grad = None
    optimizer.step()
    assert torch.equal(params[1], still)
    assert params[1] not in optimizer.state
    assert not torch.equal(params[3], parameters()[3])


def test_batches_are_found_once_for_the_same_parameters(monkeypatch):
    owners = importlib.import_module("muloco.optim.owners")
    found = []
    batches = owners.batches
    monkeypatch.setattr(owners, "batches", lambda matrices: found.append(1) or batches(matrices))
    params = parameters()
    optimizer = Muon(params, 0.1)
    run(optimizer, params, steps=3)
    assert len(found) == 1
    params[1].grad = None
    optimizer.step()
    optimizer.step()
    assert len(found) == 2
    run(optimizer, params, steps=1)
    assert len(found) == 3


@pytest.mark.parametrize("change", ["load_state_dict", "add_param_group", "to", "layout"])
def test_a_step_knows_what_has_changed_since_the_last(change):
    params, others = (parameters() for _ in range(2))
    ours, theirs = (Muon([{"params": some}], 0.1, momentum=0.5, nesterov=True) for some in (params, others))
    for optimizer, some in ((ours, params), (theirs, others)):
        if optimizer is ours:
            give_gradients(some, 0)
            optimizer.step()
            with torch.no_grad():
                for param, start in zip(some, parameters(), strict=True):
                    param.copy_(start)
                    optimizer.state[param]["momentum_buffer"].zero_()
        if change == "load_state_dict":
            state = optimizer.state_dict()
            state["param_groups"][0]["lr"] = 0.3
            optimizer.load_state_dict(state)
        elif change == "add_param_group":
            extra = torch.nn.Parameter(torch.eye(4))
            optimizer.add_param_group({"params": [extra], "lr": 0.7})
            some.append(extra)
        elif change == "to":
            for param in some:
                param.data = param.data.double()
                if "momentum_buffer" in optimizer.state[param]:
                    optimizer.state[param]["momentum_buffer"] = optimizer.state[param]["momentum_buffer"].double()
        else:
            optimizer.param_groups[0]["layout"] = "transposed"
        give_gradients(some, 1)
        optimizer.step()
    for mine, other in zip(params, others, strict=True):
        assert torch.equal(mine, other)


def test_zero_gradients_move_nothing():
    params = parameters()
    optimizer = Muon(params, 0.05)
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    assert_equal(params, parameters(), rtol=0, atol=0)


class NoHostSync(TorchDispatchMode):
    """Fails where a tensor's value is read on the host, for which a GPU would have to be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["float", "tensor"])
def test_never_waits_for_the_device(monkeypatch, lr):
    monkeypatch.setattr("muloco.optim.passes.SEEN", frozenset())
    params = parameters()
    optimizer = Muon(params, lr, nesterov=True, weight_decay=0.1)
    give_gradients(params, 0)
    with NoHostSync():
        optimizer.step()
    with pytest.raises(AssertionError), NoHostSync():
        params[0].sum().item()


def test_closure():
    param = torch.nn.Parameter(torch.eye(3))
    optimizer = Muon([param], 0.1, momentum=0.0)

    def closure():
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3
    assert optimizer.step(closure).item() < 3
    assert optimizer.step() is None


def test_state_dict_resumes_exactly():
    straight, resumed = parameters(), parameters()
    run(Muon(straight, 0.05, nesterov=True, weight_decay=0.1), straight, steps=5)

    before = Muon(resumed, 0.05, nesterov=True, weight_decay=0.1)
    run(before, resumed, steps=2)
    after = Muon(resumed, 0.7)
    after.load_state_dict(before.state_dict())
    run(after, resumed, steps=3, first=2)
    assert_equal(straight, resumed, rtol=0, atol=0)


def test_groups_have_their_own_options():
    params = parameters()
    expected = reference(params, 3, 0.01, 0.5, True, 0.2, "rms_norm", QUINTIC)[:3]
    rest = reference(params, 3, 0.05, 0.9, False, 0.0, "spectral_norm", MULOCO)[3:]
    optimizer = Muon(params[3:], 0.05)
    optimizer.add_param_group(
        {
            "params": params[:3],
            "lr": 0.01,
            "momentum": 0.5,
            "nesterov": True,
            "weight_decay": 0.2,
            "adjust_lr": "rms_norm",
            "orthogonalization": "quintic",
        }
    )
    run(optimizer, params, steps=3)
    assert_equal(params, expected + rest, rtol=0, atol=2e-4)


def test_foreign_keys_in_groups_are_kept():
    params, others = parameters(), parameters()
    names = [f"layers.{i}.weight" for i in range(len(params))]
    optimizer = Muon([{"params": params, "param_names": names, "fused": True, "foreach": False}], 0.05)
    run(optimizer, params)
    run(Muon(list(zip(names, others, strict=True)), 0.05), others)
    assert_equal(params, others, rtol=0, atol=0)
    saved = optimizer.state_dict()["param_groups"][0]
    assert (saved["param_names"], saved["fused"], saved["foreach"]) == (names, True, False)


SCHEDULERS = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.5**step),
    "step": lambda o: lr_scheduler.StepLR(o, 1, gamma=0.5),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "linear": lambda o: lr_scheduler.LinearLR(o),
    "one_cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=10),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=2), lr_scheduler.ExponentialLR(o, 0.5)], milestones=[2]
    ),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0),
}


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["float", "tensor"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_drive_the_step(name, lr):
    """A step along the identity is lr times a constant, whatever the momentum; every scheduler changes lr."""
    param = torch.nn.Parameter(torch.zeros(4, 4))
    optimizer = Muon([param], lr.clone() if isinstance(lr, torch.Tensor) else lr)
    scheduler = SCHEDULERS[name](optimizer)
    rates, lengths = [], []
    for _ in range(5):
        before = param.detach().clone()
        param.grad = torch.eye(4)
        optimizer.step()
        rates.append(float(optimizer.param_groups[0]["lr"]))
        lengths.append((param - before).norm().item())
        scheduler.step(*([1.0] if name == "plateau" else []))
    assert len(set(rates)) > 1
    # All singular values are 1/2 after normalization.
    s = 0.5
    for a, b, c in MULOCO:
        s = a * s + b * s**3 + c * s**5
    assert lengths == pytest.approx([2 * s * rate for rate in rates], rel=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Muon([torch.nn.Parameter(torch.ones(3))], 0.1), r"only real matrices, but parameter has shape \(3,\)"),
        (
            lambda: Muon([{"params": [("ok", torch.ones(2, 2)), ("norm.weight", torch.ones(3))]}], 0.1),
            r"parameter 'norm.weight' has shape \(3,\)",
        ),
        (lambda: Muon([torch.nn.Parameter(torch.ones(2, 2, 2))], 0.1), r"\(2, 2, 2\)"),
        (lambda: Muon([torch.ones(2, 2, dtype=torch.complex64)], 0.1), "complex64"),
        (lambda: Muon(parameters(), -0.1), "lr must be at least 0, not -0.1"),
        (lambda: Muon(parameters(), math.nan), "lr must be at least 0, not nan"),
        (lambda: Muon(parameters(), 0.1, momentum=1.0), r"momentum must be in \[0, 1\), not 1.0"),
        (lambda: Muon(parameters(), 0.1, momentum=-0.1), r"momentum must be in \[0, 1\), not -0.1"),
        (lambda: Muon(parameters(), 0.1, weight_decay=-1.0), "weight_decay must be at least 0, not -1.0"),
        (lambda: Muon(parameters(), 0.1, adjust_lr="spectral"), "did you mean 'spectral_norm'.*'rms_norm', 'none'"),
        (lambda: Muon(parameters(), 0.1, orthogonalization="mulco"), "did you mean 'muloco'"),
        (lambda: Muon(parameters(), 0.1, steps=0), "positive integer"),
        (lambda: Muon([{"params": parameters(), "adjust_lr": "rms"}], 0.1), "unknown adjust_lr 'rms'"),
    ],
)
def test_mistakes_are_explained(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_refused_group_is_not_added():
    optimizer = Muon(parameters(), 0.1)
    with pytest.raises(ValueError, match="shape"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))]})
    assert len(optimizer.param_groups) == 1
