"""Rules and factors by role: the optimizer that torchtitan builds against a plain loop over groups sorted by hand."""

import copy
import importlib
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

import muloco.model
from muloco.errors import UserError
from muloco.model.flavors import flavor
from muloco.optim.roles import group_by_role
from muloco.pytorch import Muon
from muloco.settings.optimizer import Optimizer, Role
from muloco.training.optimizers import InnerRates, inner_optimizers

ROLES = flavor("tiny").record.roles
STEPS, WARMUP, LOWEST = 6, 2, 0.1
SETTINGS = {"lr": 0.05, "weight_decay": 0.3, "cautious_weight_decay": True, "nesterov": True}
MIXES = {
    "Muon": (Optimizer(name="Muon", lr=0.05, weight_decay=0.3), {}),
    "AdamW": (
        Optimizer(name="AdamW", lr=0.05, weight_decay=0.3, beta1=0.8, embedding=Role(lr_factor=0.25)),
        {
            "matrix": {"algorithm": "adamw", "betas": (0.8, 0.99)},
            "embedding": {"betas": (0.8, 0.99), "lr_factor": 0.25},
            "head": {"betas": (0.8, 0.99)},
            "scalar": {"betas": (0.8, 0.99)},
        },
    ),
    "every rule": (
        Optimizer(
            **SETTINGS,
            orthogonalization="quintic",
            orthogonalization_steps=3,
            matrix=Role(weight_decay_factor=0.5),
            embedding=Role(rule="lion", lr_factor=0.1),
            head=Role(rule="muon", lr_factor=2.0),
            scalar=Role(lr_factor=0.5, weight_decay_factor=0.0),
        ),
        {
            "matrix": {"steps": 3, "orthogonalization": "quintic", "weight_decay": 0.15},
            "embedding": {"algorithm": "lion", "lr_factor": 0.1},
            "head": {"algorithm": "muon", "steps": 3, "orthogonalization": "quintic", "lr_factor": 2.0},
            "scalar": {"lr_factor": 0.5, "weight_decay": 0.0},
        },
    ),
}


class Run:
    """The tiny model with optimizers and schedule as the trainer builds them."""

    def __init__(self, chosen: Optimizer):
        chosen = copy.deepcopy(chosen)
        chosen.complete({})
        torch.manual_seed(0)
        self.model = muloco.model.build("tiny", "cpu", seq_len=16)
        self.optimizers = inner_optimizers(chosen, ROLES).build(model_parts=[self.model])
        schedule = InnerRates(warmup_steps=WARMUP, min_lr_factor=LOWEST)
        self.schedule = schedule.build(optimizers=self.optimizers, training_steps=STEPS)

    def step(self, number: int) -> None:
        fill_gradients(self.model, number)
        self.optimizers.step()
        self.schedule.step()
        self.optimizers.zero_grad()

    def state(self) -> dict:
        return {"model": self.model, "optimizer": self.optimizers, "lr_scheduler": self.schedule}


def fill_gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def by_hand(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    layers = list(model.layers.parameters())
    return {
        "matrix": [parameter for parameter in layers if parameter.ndim == 2],
        "embedding": [model.tok_embeddings.weight],
        "head": [model.lm_head.weight],
        "scalar": [parameter for parameter in (*layers, model.norm.weight) if parameter.ndim == 1],
    }


def rates(peak: float) -> Iterator[float]:
    """Linear warm-up, then cosine down to a tenth."""
    for step in range(STEPS):
        if step < WARMUP:
            yield peak * (step + 1) / WARMUP
        else:
            cosine = 0.5 + 0.5 * math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))
            yield peak * (LOWEST + (1 - LOWEST) * cosine)


@pytest.mark.parametrize("mix", MIXES)
def test_roles_are_stepped_as_a_plain_loop_steps_their_groups(mix: str) -> None:
    chosen, options = MIXES[mix]
    ours = Run(chosen)
    torch.manual_seed(0)
    plain = muloco.model.build("tiny", "cpu", seq_len=16)
    start = {name: parameter.detach().clone() for name, parameter in plain.named_parameters()}
    groups = [
        {"params": members, "algorithm": "muon" if role == "matrix" else "adamw", **options.get(role, {})}
        for role, members in by_hand(plain).items()
    ]
    settings = SETTINGS if mix == "every rule" else {"lr": 0.05, "weight_decay": 0.3}
    theirs = Muon(groups, **settings)
    for step, rate in enumerate(rates(0.05)):
        assert list(ours.schedule.get_metrics().values()) == pytest.approx([rate] * 4), "the same rate for all roles"
        for group in theirs.param_groups:
            group["lr"] = rate
        fill_gradients(plain, step)
        theirs.step()
        ours.step(step)
    for (name, expected), actual in zip(plain.named_parameters(), ours.model.parameters(), strict=True):
        assert (expected - start[name]).abs().max() > 1e-3
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6, msg=f"{mix}: {name}")


def test_how_symmetric_products_are_computed_reaches_the_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    newton_schulz = importlib.import_module("muloco.optim.newton_schulz")
    asked, original = set(), newton_schulz.orthogonal_direction

    def recorded(*args, symmetric_products: str, **options) -> torch.Tensor:
        asked.add(symmetric_products)
        return original(*args, symmetric_products=symmetric_products, **options)

    monkeypatch.setattr(newton_schulz, "orthogonal_direction", recorded)
    Run(Optimizer(weight_decay=0.0)).step(0)
    assert asked == {"auto"}
    asked.clear()
    Run(Optimizer(weight_decay=0.0, symmetric_products="matmul")).step(0)
    assert asked == {"matmul"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="symmetric_products triton needs CUDA devices.*; use auto or matmul"):
        inner_optimizers(Optimizer(weight_decay=0.0, symmetric_products="triton"), ROLES)


def test_roles_are_those_of_the_library() -> None:
    model = muloco.model.build("tiny", "meta", seq_len=16)
    sorted_by_library = {name: group["role"] for group in group_by_role(model) for name, _ in group["params"]}
    chosen = Optimizer(weight_decay=0.0)
    chosen.complete({})
    (optimizer,) = inner_optimizers(chosen, ROLES).build(model_parts=[model])
    ours = {name: group["role"] for group in optimizer.param_groups for name in group["param_names"]}
    assert ours == sorted_by_library and len(ours) == 29


def test_a_checkpoint_continues_every_rule_to_the_bit(tmp_path: Path) -> None:
    chosen, _ = MIXES["every rule"]
    whole, again = Run(chosen), Run(chosen)
    for step in range(STEPS):
        if step == 3:
            dcp.save(whole.state(), checkpoint_id=tmp_path / "checkpoint")
        whole.step(step)
    dcp.load(again.state(), checkpoint_id=tmp_path / "checkpoint")
    for step in range(3, STEPS):
        again.step(step)
    for (name, expected), actual in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(actual, expected), name
