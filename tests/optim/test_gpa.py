"""GPA against its formulas (PAPER 3.6) with x and z kept apart, the inner steps by torch.optim.AdamW or by our Muon."""

import copy
import importlib

import pytest
import torch

from muloco.pytorch import GPA, Muon

SHAPES = [(5, 3), (1, 4), (7,)]


@pytest.fixture(autouse=True)
def single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in float32 whatever the hardware likes."""
    monkeypatch.setattr(importlib.import_module("muloco.optim.newton_schulz"), "_fast_dtype", lambda _: torch.float32)


def start() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in SHAPES]


def loss(params: list[torch.Tensor], step: int) -> torch.Tensor:
    """Of the parameters, so that a gradient taken at the wrong point is another one."""
    generator = torch.Generator().manual_seed(100 + step)
    return sum(((p - torch.randn(p.shape, generator=generator).to(p.dtype)) ** 2).sum() for p in params)


def groups(rule: str, params: list[torch.Tensor]) -> list[dict]:
    matrices, others = [p for p in params if p.ndim == 2], [p for p in params if p.ndim != 2]
    if rule == "adamw":
        return [{"params": params, "algorithm": "adamw"}]
    return [{"params": matrices}, {"params": others, "algorithm": "adamw"}]


def train(optimizer: GPA, params: list[torch.Tensor], steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss(params, step).backward()
        optimizer.step()


class Oracle:
    """x and z as they are written, gradients at y."""

    def __init__(self, rule: str, *, mu_x: float, mu_y: float, lr: float, weight_decay: float):
        self.mu_x, self.mu_y = mu_x, mu_y
        self.z = [p.detach().clone().requires_grad_() for p in start()]
        self.x = [p.detach().clone() for p in self.z]
        if rule == "adamw":
            self.inner = torch.optim.AdamW(self.z, lr=lr, betas=(0.9, 0.99), eps=1e-8, weight_decay=weight_decay)
        else:
            self.inner = Muon(groups(rule, self.z), lr=lr, weight_decay=weight_decay)

    @property
    def y(self) -> list[torch.Tensor]:
        pairs = zip(self.x, self.z, strict=True)
        return [(self.mu_y * x + (1 - self.mu_y) * z).detach() for x, z in pairs]

    def step(self, step: int) -> None:
        at = [y.requires_grad_() for y in self.y]
        for z, gradient in zip(self.z, torch.autograd.grad(loss(at, step), at), strict=True):
            z.grad = gradient
        self.inner.step()
        self.x = [self.mu_x * x + (1 - self.mu_x) * z.detach() for x, z in zip(self.x, self.z, strict=True)]


def close(ones, others) -> None:
    for one, other in zip(ones, others, strict=True):
        torch.testing.assert_close(one.detach(), other.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", ["adamw", "muon"])
@pytest.mark.parametrize(("mu_x", "mu_y"), [(0.9, 0.7), (0.5, 1.0), (0.0, 0.3), (0.9967, 0.7)])
def test_equals_its_formulas(rule: str, mu_x: float, mu_y: float) -> None:
    params = start()
    optimizer = GPA(groups(rule, params), lr=0.05, mu_x=mu_x, mu_y=mu_y, weight_decay=0.3)
    oracle = Oracle(rule, mu_x=mu_x, mu_y=mu_y, lr=0.05, weight_decay=0.3)
    for step in range(12):
        train(optimizer, params, range(step, step + 1))
        oracle.step(step)
        close(params, oracle.y)
        close([optimizer.z(p) for p in params], oracle.z)
        before = [p.detach().clone() for p in params]
        with optimizer.average_weights():
            close(params, oracle.x)
        assert all(map(torch.equal, params, before)), "looking at x changes nothing"


def test_x_is_far_from_y_and_z() -> None:
    """Otherwise the comparison above would say little."""
    oracle = Oracle("adamw", mu_x=0.9, mu_y=0.7, lr=0.05, weight_decay=0.3)
    for step in range(12):
        oracle.step(step)
    for other in (oracle.y, oracle.z):
        assert (oracle.x[0] - other[0]).abs().max() > 0.05


def test_z_may_be_moved_and_x_stays() -> None:
    params = start()
    optimizer = GPA(groups("adamw", params), lr=0.05, mu_x=0.9, mu_y=0.7)
    train(optimizer, params, range(3))
    with optimizer.average_weights():
        x = [p.detach().clone() for p in params]
    moved = params[:2]
    with optimizer.moving_z(moved):
        for param in moved:
            optimizer.z(param).add_(1.0)
    with optimizer.average_weights():
        close(params, x)
    close(moved, [0.7 * a + 0.3 * optimizer.z(p) for a, p in zip(x[:2], moved, strict=True)])


@pytest.mark.parametrize("asked_early", [True, False])
def test_continues_to_the_bit_from_its_state(asked_early: bool) -> None:
    params = start()
    optimizer = GPA(groups("muon", params), lr=0.05, mu_x=0.9)
    train(optimizer, params, range(3))
    others = [p.detach().clone().requires_grad_() for p in params]
    other = GPA(groups("muon", others), lr=0.05, mu_x=0.9)
    kept = [other.z(p) for p in others] if asked_early else []
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, asked in zip(others, kept, strict=False):
        assert other.z(one) is asked, "whoever holds a z goes on holding it"
    train(optimizer, params, range(3, 6))
    train(other, others, range(3, 6))
    assert all(map(torch.equal, params, others))
    assert all(torch.equal(optimizer.z(a), other.z(b)) for a, b in zip(params, others, strict=True))


def test_parameters_without_a_gradient_stay() -> None:
    params = start()
    optimizer = GPA(groups("adamw", params), lr=0.05)
    optimizer.zero_grad()
    loss(params[:1], 0).backward()
    optimizer.step()
    assert not torch.equal(params[0], start()[0]) and torch.equal(params[1], start()[1])
    with optimizer.average_weights():
        assert torch.equal(params[1], start()[1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"mu_x": 1.0}, r"mu_x must be in \[0, 1\), not 1.0"), ({"mu_y": 0.0}, r"mu_y must be in \(0, 1\], not 0.0")],
)
def test_constants_out_of_range_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GPA(start()[:1], lr=0.1, **wrong)
