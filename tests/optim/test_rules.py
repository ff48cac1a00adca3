"""Groups with rules of their own: AdamW against torch's, all against straight-line references in double precision."""

import copy
import importlib
import math

import pytest
import torch

from muloco.optim import GPA, MuLoCo1, Muon

from ..coefficients import MULOCO

SHAPES = [(6, 4), (5,), (), (2, 3, 4)]


@pytest.fixture(autouse=True)
def single_precision(monkeypatch):
    module = importlib.import_module("muloco.optim.newton_schulz")
    monkeypatch.setattr(module, "_fast_dtype", lambda device_type: torch.float32)


def parameters(shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def give_gradients(params, step):
    generator = torch.Generator().manual_seed(1000 + step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)


def gradients(params, steps):
    result = []
    for step in range(steps):
        give_gradients(params, step)
        result.append([param.grad.double() for param in params])
    return result


def run(optimizer, params, steps=4):
    for step in range(steps):
        give_gradients(params, step)
        optimizer.step()
    return [param.detach().clone() for param in params]


def assert_close(values, expected, atol=2e-6):
    for value, other in zip(values, expected, strict=True):
        torch.testing.assert_close(value.double(), other.double(), rtol=0, atol=atol)


def decayed(x, direction, amount, cautious):
    """Element by element."""
    flat = [
        value if cautious and value * way < 0 else value * (1 - amount)
        for value, way in zip(x.flatten().tolist(), direction.flatten().tolist(), strict=True)
    ]
    return torch.tensor(flat, dtype=torch.float64).reshape(x.shape)


def slow_adamw(x, grads, lr, betas, eps, weight_decay, cautious):
    m = v = torch.zeros_like(x)
    for step, g in enumerate(grads, 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        u = (m / (1 - betas[0] ** step)) / ((v / (1 - betas[1] ** step)).sqrt() + eps)
        x = decayed(x, u, lr * weight_decay, cautious) - lr * u
    return x


def slow_lion(x, grads, lr, betas, eps, weight_decay, cautious):
    m = torch.zeros_like(x)
    for g in grads:
        u = (betas[0] * m + (1 - betas[0]) * g).sign()
        x = decayed(x, u, lr * weight_decay, cautious) - lr * u
        m = betas[1] * m + (1 - betas[1]) * g
    return x


def polynomial(matrix):
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.norm()
    for a, b, c in MULOCO:
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag(s) @ vh


def slow_muon(x, grads, lr, weight_decay, cautious):
    rows, cols = x.shape
    m = torch.zeros_like(x)
    for g in grads:
        m = 0.9 * m + g
        u = polynomial(m)
        x = decayed(x, u, lr * weight_decay, cautious) - lr * math.sqrt(rows / cols) * u
    return x


@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("rule", ["adamw", "lion"])
@pytest.mark.parametrize("lr", [0.05, torch.tensor(0.05)], ids=["float", "tensor"])
def test_elementwise_rules_are_their_formulas(rule, cautious, lr):
    params = parameters()
    slow = {"adamw": slow_adamw, "lion": slow_lion}[rule]
    grads = gradients(params, 4)
    expected = [
        slow(param.detach().double(), [g[index] for g in grads], 0.05, (0.8, 0.95), 1e-3, 0.4, cautious)
        for index, param in enumerate(params)
    ]
    group = {"params": params, "algorithm": rule, "betas": (0.8, 0.95)}
    options = {"eps": 1e-3, "weight_decay": 0.4, "cautious_weight_decay": cautious}
    assert_close(run(Muon([group], lr, **options), params), expected)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("implementation", [{}, {"fused": True}, {"foreach": True}, {"fused": False, "foreach": False}])
def test_adamw_is_torchs_bit_by_bit(weight_decay, implementation):
    params, others = parameters(), parameters()
    options = {"betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": weight_decay, **implementation}
    ours = run(Muon([{"params": params, "algorithm": "adamw", **options}], 0.01), params)
    theirs = run(torch.optim.AdamW(others, 0.01, **options), others)
    assert all(map(torch.equal, ours, theirs))


def test_betas_are_by_default_the_papers_and_can_be_set_for_all_groups():
    [default] = Muon([{"params": parameters(), "algorithm": "adamw"}], 0.1).param_groups
    assert (default["betas"], default["eps"]) == ((0.9, 0.99), 1e-8)
    optimizer = Muon([{"params": parameters(), "algorithm": "lion"}], 0.1, betas=(0.5, 0.6))
    optimizer = copy.deepcopy(optimizer)
    optimizer.add_param_group({"params": parameters(), "algorithm": "adamw"})
    assert [group["betas"] for group in optimizer.param_groups] == [(0.5, 0.6)] * 2


@pytest.mark.parametrize("cautious", [False, True])
def test_muon_decays_cautiously(cautious):
    params = parameters([(6, 4), (4, 6), (3, 3)])
    grads = gradients(params, 4)
    expected = [
        slow_muon(param.detach().double(), [g[index] for g in grads], 0.05, 2.0, cautious)
        for index, param in enumerate(params)
    ]
    assert_close(run(Muon(params, 0.05, weight_decay=2.0, cautious_weight_decay=cautious), params), expected, 2e-4)


def test_caution_is_decided_by_signs_even_where_the_product_vanishes():
    param = torch.nn.Parameter(torch.tensor([1e-30, 1e-30, 1.0]))
    optimizer = Muon(
        [{"params": [param], "algorithm": "adamw", "cautious_weight_decay": True, "betas": (0.0, 0.0)}],
        1e-38,
        weight_decay=5e37,
    )
    param.grad = torch.tensor([-1e-30, 1e-30, 0.0])
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.tensor([1e-30, 5e-31, 0.5]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("rule", ["muon", "adamw", "lion"])
@pytest.mark.parametrize("lr", [0.05, torch.tensor(0.05)], ids=["float", "tensor"])
def test_lr_factor_multiplies_what_the_scheduler_writes(rule, lr):
    """Decay included: the group steps as one whose lr is smaller."""
    params, others = parameters([(6, 4), (4, 6)]), parameters([(6, 4), (4, 6)])
    optimizer = Muon([{"params": params, "algorithm": rule, "lr_factor": 0.25}], lr, weight_decay=0.3)
    ours = run(optimizer, params)
    theirs = run(Muon([{"params": others, "algorithm": rule}], 0.0125, weight_decay=0.3), others)
    assert_close(ours, theirs, 1e-7)
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.05)


def test_stacked_tensors_are_a_batch_of_matrices():
    params = parameters([(2, 3, 5, 4), (3, 4, 5)])
    grads = gradients(params, 3)
    expected = []
    for index, param in enumerate(params):
        slices = [param.detach().double().flatten(0, -3), *(g[index].flatten(0, -3) for g in grads)]
        matrices = [slow_muon(x, g, 0.05, 0.3, False) for x, *g in zip(*slices, strict=True)]
        expected.append(torch.stack(matrices).reshape(param.shape))
    group = {"params": params, "layout": "stacked"}
    assert_close(run(Muon([group], 0.05, weight_decay=0.3), params, 3), expected, 2e-4)


def test_flattened_tensors_are_matrices_of_their_first_dimension():
    params = parameters([(6, 2, 3, 3), (6, 2, 3, 3), (4, 2, 1), (3, 5)])
    grads = gradients(params, 3)
    expected = [
        slow_muon(
            param.detach().double().reshape(len(param), -1),
            [g[i].reshape(len(param), -1) for g in grads],
            0.05,
            0.3,
            False,
        )
        for i, param in enumerate(params)
    ]
    group = {"params": params, "layout": "flatten", "cautious_weight_decay": False}
    values = run(Muon([group], 0.05, weight_decay=0.3), params, 3)
    assert_close([value.flatten(1) for value in values], expected, 2e-4)


def test_four_dimensions_without_a_layout_are_a_convolution():
    """As the reference takes them: [out, in height width]."""
    params, others = parameters([(6, 2, 3, 3)]), parameters([(6, 2, 3, 3)])
    run(Muon(params, 0.05, weight_decay=0.3), params)
    run(Muon([{"params": others, "layout": "flatten"}], 0.05, weight_decay=0.3), others)
    assert all(map(torch.equal, params, others))


@pytest.mark.parametrize("rule", ["muon", "adamw", "lion"])
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("kind", [Muon, MuLoCo1, GPA])
def test_empty_parameters_are_stepped(kind, shape, rule):
    params = [torch.nn.Parameter(torch.ones(3, 3)), torch.nn.Parameter(torch.ones(shape))]
    optimizer = kind([{"params": params, "algorithm": rule}], weight_decay=0.1)
    run(optimizer, params, 3)
    assert params[0].isfinite().all() and params[1].shape == shape
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(optimizer, params, 1)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("fast", [torch.float32, torch.bfloat16], ids=str)
def test_the_step_is_right_wherever_the_momentum_is_finite(monkeypatch, fast, dtype, nesterov):
    """Up to the ends of the range: the second momentum nears the largest number, and a gradient plus that overflows."""
    monkeypatch.setattr(importlib.import_module("muloco.optim.newton_schulz"), "_fast_dtype", lambda device_type: fast)
    info = torch.finfo(dtype)
    signs = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).sign()
    rounded = dtype == torch.float32 and fast == torch.bfloat16  # what is subnormal then may vanish
    for size in (0.45 * info.max, info.tiny, info.tiny * (1 if rounded else info.eps * 4)):
        params = [torch.nn.Parameter(torch.zeros(5, 4, dtype=dtype)) for _ in range(2)]
        expected = [torch.nn.Parameter(torch.zeros(5, 4)) for _ in range(2)]
        optimizer, plain = Muon(params, 0.05, nesterov=nesterov), Muon(expected, 0.05, nesterov=nesterov)
        for _ in range(2):
            for index, (param, other) in enumerate(zip(params, expected, strict=True)):
                param.grad, other.grad = (size * signs[index].double()).to(dtype), signs[index].clone()
            optimizer.step()
            plain.step()
        for param, other in zip(params, expected, strict=True):
            assert optimizer.state[param]["momentum_buffer"].isfinite().all()
            torch.testing.assert_close(param.detach().float(), other.detach(), rtol=0, atol=0.02 * 0.05)


def test_rules_side_by_side_keep_their_own_state():
    params = parameters([(6, 4), (5,), (5,)])
    rules = ["muon", "adamw", "lion"]
    optimizer = Muon([{"params": [p], "algorithm": rule} for p, rule in zip(params, rules, strict=True)], 0.01)
    run(optimizer, params)
    kept = [set(optimizer.state[param]) for param in params]
    assert kept == [{"momentum_buffer"}, {"step", "exp_avg", "exp_avg_sq"}, {"exp_avg"}]


def test_state_of_every_rule_resumes_exactly():
    def build(params):
        rules = ["muon", "adamw", "lion", "muon"]
        groups = [
            {"params": [p], "algorithm": rule, "layout": "stacked" if rule == "muon" else None}
            for p, rule in zip(params, rules, strict=True)
        ]
        return Muon(groups, 0.02, weight_decay=0.1)

    straight, resumed = parameters(), parameters()
    straight_optimizer, before = build(straight), build(resumed)
    for step in range(5):
        give_gradients(straight, step)
        straight_optimizer.step()
    for step in range(2):
        give_gradients(resumed, step)
        before.step()
    after = build(resumed)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    for step in range(2, 5):
        give_gradients(resumed, step)
        after.step()
    assert all(map(torch.equal, straight, resumed))


def test_checkpoints_older_than_an_option_get_its_default():
    params = parameters([(6, 4)])
    optimizer = Muon(params, 0.05)
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        for name in ("algorithm", "lr_factor", "layout", "eps", "cautious_weight_decay"):
            del group[name]
    optimizer.load_state_dict(saved)
    run(optimizer, params)
    assert optimizer.param_groups[0]["algorithm"] == "muon"
    assert "differentiable" not in optimizer.param_groups[0]


def test_a_sparse_gradient_is_refused_before_anything_moves():
    matrix = torch.nn.Parameter(torch.eye(3))
    table = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = Muon(
        [{"params": [("m", matrix)]}, {"params": [("emb.weight", table.weight)], "algorithm": "adamw"}], 0.1
    )
    (table(torch.tensor([1])).sum() + matrix.sum()).backward()
    with pytest.raises(
        ValueError, match=r"'emb.weight' of shape \(4, 2\) has a gradient of torch.sparse_coo.*sparse=False"
    ):
        optimizer.step()
    assert torch.equal(matrix, torch.eye(3)) and not optimizer.state


def vector():
    return torch.nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"params": [vector()], "algorithm": "adam"}, "unknown algorithm 'adam'.*'adamw'.*'adamw', .*'lion', .*'muon'"),
        ({"params": [vector()], "algorithm": "adamw", "betas": (0.9, 1.0)}, r"betas\[1\] must be in \[0, 1\), not 1.0"),
        ({"params": [vector()], "algorithm": "lion", "betas": (-0.1, 0.9)}, r"betas\[0\] must be in \[0, 1\)"),
        ({"params": [vector()], "algorithm": "adamw", "betas": 0.9}, "betas must be a pair of numbers, not 0.9"),
        ({"params": [vector()], "algorithm": "adamw", "eps": -1e-8}, "eps must be at least 0"),
        ({"params": [vector()], "algorithm": "adamw", "lr": -1.0}, "lr must be at least 0, not -1.0"),
        ({"params": [vector()], "algorithm": "adamw", "lr_factor": -1.0}, "lr_factor must be at least 0, not -1.0"),
        ({"params": [vector()], "algorithm": "adamw", "lr": torch.ones(2)}, r"of one element, not of shape \(2,\)"),
        ({"params": [("b", torch.ones(3, dtype=torch.int64))], "algorithm": "lion"}, "parameter 'b' has torch.int64"),
        ({"params": [("c", torch.ones(2, 3, 4))]}, r"'c' has shape \(2, 3, 4\).*'stacked'.*'flatten'.*'adamw'"),
        ({"params": [torch.ones(2, 3, 4)], "layout": "flat"}, "unknown layout 'flat': did you mean 'flatten'"),
        ({"params": [torch.ones(3)], "layout": "stacked"}, r"has shape \(3,\)"),
        ({"params": [torch.ones(3, 2, 2)], "layout": "transposed"}, "layout 'transposed' is for two dimensions"),
    ],
)  # fmt: skip
def test_mistakes_are_explained(group, message):
    with pytest.raises(ValueError, match=message):
        Muon([group], 0.1)


def test_a_parameter_is_given_once():
    first, second = (torch.nn.Parameter(torch.eye(3)) for _ in range(2))
    with pytest.raises(ValueError, match=r"parameter 'a' of shape \(3, 3\) is given twice; a parameter may be in one"):
        Muon([{"params": [("a", first)]}, {"params": [("b", second), ("a", first)]}], 0.1)
    optimizer = Muon([second], 0.1)
    with pytest.raises(ValueError, match=r"parameter of shape \(3, 3\) is given twice"):
        optimizer.add_param_group({"params": [first, second]})
    with pytest.warns(UserWarning, match="duplicate"), pytest.raises(ValueError, match="given twice"):
        optimizer.add_param_group({"params": [first, first]})
    assert len(optimizer.param_groups) == 1
