"""What the table of rules says is what the rules do, and what users of `muloco.pytorch` rely on stays."""

import inspect

import pytest
import torch
from torch import nn

from muloco.optim.rules import RULES
from muloco.pytorch import GPA, MuLoCo1, Muon

RULE = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())

INNER = {
    "momentum": 0.9,
    "nesterov": False,
    "adjust_lr": "spectral_norm",
    "orthogonalization": "muloco",
    "steps": None,
    "betas": (0.9, 0.99),
    "eps": 1e-8,
    "cautious_weight_decay": False,
    "process_group": None,
    "symmetric_products": "auto",
    "role_of": None,
    "split": None,
    "per_head": None,
}
POSITIONAL = {
    Muon: {"lr": 0.02},
    GPA: {"lr": 0.02, "mu_x": 0.9967, "mu_y": 0.7, "weight_decay": 0.0},
    MuLoCo1: {
        "inner_lr": 0.02,
        "outer_lr": 0.7,
        "outer_momentum": 0.6,
        "sync_interval": 30,
        "weight_decay": 0.01,
    },
}


@RULE
def test_the_state_is_the_tables(rule):
    param = nn.Parameter(torch.ones(5, 4))
    param.grad = torch.ones(5, 4)
    optimizer = Muon([{"params": [param], "algorithm": rule.name}])
    optimizer.step()
    numbers = {"element": 20, "row": 5, "tensor": 1}
    assert {name: buffer.numel() for name, buffer in optimizer.state[param].items()} == {
        name: numbers[per] for name, per in rule.state.items()
    }


@RULE
def test_a_rule_is_named_as_its_file_and_has_one_way_to_step(rule):
    assert RULES[rule.name] is rule and (rule.step is None) == rule.needs_whole_matrices
    assert rule.takes == "matrices" or not rule.needs_whole_matrices


@RULE
def test_what_a_rule_takes_is_what_its_groups_may_hold(rule):
    group = {"params": [nn.Parameter(torch.ones(3))], "algorithm": rule.name}
    if rule.takes == "anything":
        Muon([group])
    else:
        with pytest.raises(ValueError, match=f"{rule.label} takes only real matrices"):
            Muon([group])


def test_options_of_one_name_are_one_option_and_defaults_are_allowed():
    by_name = {}
    for rule in RULES.values():
        for option in rule.options:
            assert by_name.setdefault(option.name, option) is option
            assert option.read(option.name, option.default) == option.default


@pytest.mark.parametrize("kind", POSITIONAL)
def test_the_signature_lists_every_keyword_with_its_default(kind):
    _, *parameters = inspect.signature(kind).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters}
    of_new_rules = {o.name: o.default for rule in RULES.values() for o in rule.options if o.in_constructor}
    assert defaults == {"weight_decay": 0.0, **of_new_rules, **INNER, **POSITIONAL[kind]}
    positional = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert positional == list(POSITIONAL[kind])


def test_a_subclass_has_its_own_signature():
    class Mine(Muon):
        def __init__(self, params, speed=1.0):
            super().__init__(params, lr=speed)

    assert list(inspect.signature(Mine).parameters) == ["params", "speed"]
    assert Mine([nn.Parameter(torch.ones(2, 2))], 0.5).param_groups[0]["lr"] == 0.5
