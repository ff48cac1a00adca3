"""What a group, a constructor and a checkpoint may say, for all three optimizers alike."""

import copy
import math

import numpy
import pytest
import torch
from torch import nn

from muloco.optim import GPA, MuLoCo1, Muon

KINDS = [Muon, MuLoCo1, GPA]


def matrix():
    return nn.Parameter(torch.ones(3, 2))


def build(kind, group):
    return kind([group])


def add(kind, group):
    optimizer = kind([matrix()])
    try:
        optimizer.add_param_group(group)
    except ValueError:
        assert len(optimizer.param_groups) == 1
        raise
    return optimizer


def load(kind, group):
    """As if a checkpoint had it."""
    optimizer = kind(group["params"])
    before = copy.deepcopy(optimizer.state_dict())
    saved = copy.deepcopy(before)
    saved["param_groups"][0] |= {name: value for name, value in group.items() if name != "params"}
    for name in ("algorithm", "betas"):
        if name not in group:
            saved["param_groups"][0].pop(name, None)
    try:
        optimizer.load_state_dict(saved)
    except ValueError:
        assert optimizer.state_dict() == before
        raise
    return optimizer


WAYS = pytest.mark.parametrize("way", [build, add, load])
KIND = pytest.mark.parametrize("kind", KINDS)


@WAYS
@KIND
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"weight_decy": 0.1}, "unknown key 'weight_decy'.*did you mean 'weight_decay'.*'layout'.*'use_muon'"),
        ({"zzz": 1}, r"unknown key 'zzz' in a parameter group: allowed are 'adjust_lr'"),
        ({"maximize": True}, "unknown key 'maximize'.*negate the loss"),
        ({"capturable": True}, "unknown key 'capturable'.*CUDA graph"),
        ({"inner_lr": 0.1}, "use lr"),
        ({"use_muon": 1}, "use_muon must be True or False, not 1"),
        ({"use_muon": False, "algorithm": "muon"}, "use_muon False and algorithm 'muon'; give one of the two"),
        ({"use_muon": True, "algorithm": "lion"}, "use_muon True and algorithm 'lion'"),
        ({"role": "heads"}, "unknown role 'heads': did you mean 'head'.*'matrix', 'embedding'"),
        ({"algorithm": ["muon"]}, r"unknown algorithm \['muon'\]"),
        ({"lr": "0.1"}, "lr must be a number, not '0.1'"),
        ({"lr": None}, "lr must be a number, not None"),
        ({"lr": True}, "lr must be a number, not True"),
        ({"lr": math.inf}, "lr must be finite, not inf"),
        ({"lr": torch.tensor(math.nan)}, "lr must be at least 0, not nan"),
        ({"lr": torch.tensor(-1.0)}, "lr must be at least 0, not -1.0"),
        ({"weight_decay": math.nan}, "weight_decay must be at least 0, not nan"),
        ({"weight_decay": torch.tensor(0.1)}, "weight_decay must be a number, not tensor"),
        ({"lr_factor": -1}, "lr_factor must be at least 0, not -1"),
        ({"eps": math.inf}, "eps must be finite"),
        ({"momentum": "0.9"}, "momentum must be a number, not '0.9'"),
        ({"momentum": math.nan}, r"momentum must be in \[0, 1\), not nan"),
        ({"nesterov": "False"}, "nesterov must be True or False, not 'False'"),
        ({"cautious_weight_decay": 1}, "cautious_weight_decay must be True or False, not 1"),
        ({"steps": 2.0}, "steps must be a positive integer or None, not 2.0"),
        ({"steps": True}, "steps must be a positive integer or None, not True"),
        ({"betas": (0.9, "0.9")}, r"betas\[1\] must be a number"),
        ({"layout": "flat"}, "unknown layout 'flat': did you mean 'flatten'"),
        ({"fused": "yes"}, "fused must be True, False or None"),
    ],
)  # fmt: skip
def test_mistakes_in_a_group_are_explained(way, kind, option, message):
    with pytest.raises(ValueError, match=message):
        way(kind, {"params": [matrix()], **option})


@WAYS
@pytest.mark.parametrize(
    ("kind", "option", "message"),
    [
        (MuLoCo1, {"sync_interval": "30"}, "sync_interval must be an integer of at least 1, not '30'"),
        (MuLoCo1, {"sync_interval": 0}, "sync_interval must be an integer of at least 1, not 0"),
        (MuLoCo1, {"outer_lr": math.inf}, "outer_lr must be finite, not inf"),
        (MuLoCo1, {"outer_momentum": 1.0}, r"outer_momentum must be in \[0, 1\), not 1.0"),
        (GPA, {"mu_x": 1.0}, r"mu_x must be in \[0, 1\), not 1.0"),
        (GPA, {"mu_y": math.nan}, r"mu_y must be in \(0, 1\], not nan"),
        (Muon, {"sync_interval": 3}, "unknown key 'sync_interval'"),
        (GPA, {"outer_lr": 0.7}, "unknown key 'outer_lr'"),
        (MuLoCo1, {"mu_x": 0.9}, "unknown key 'mu_x'"),
    ],
)
def test_options_of_one_kind(way, kind, option, message):
    with pytest.raises(ValueError, match=message):
        way(kind, {"params": [matrix()], **option})


@WAYS
@KIND
@pytest.mark.parametrize(("said", "algorithm"), [(True, "muon"), (False, "adamw")])
def test_use_muon_is_read(way, kind, said, algorithm):
    group = way(kind, {"params": [matrix()], "use_muon": said}).param_groups[-1]
    assert group["algorithm"] == algorithm and "use_muon" not in group
    assert ("betas" in group) == (not said)


def test_keller_jordans_groups_train_by_their_rules():
    """As for his MuonWithAuxAdam; the embedding is not orthogonalized."""
    table, hidden = nn.Parameter(torch.ones(5, 3)), matrix()
    groups = [
        {"params": [hidden], "use_muon": True, "lr": 0.02, "momentum": 0.95, "weight_decay": 0.01},
        {"params": [table], "use_muon": False, "lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-10, "weight_decay": 0.01},
    ]
    optimizer = Muon(groups)
    (hidden.sum() + table.square().sum()).backward()
    optimizer.step()
    other = nn.Parameter(torch.ones(5, 3))
    other.square().sum().backward()
    torch.optim.AdamW([other], 3e-4, (0.9, 0.95), 1e-10, 0.01).step()
    assert torch.equal(table, other) and "momentum_buffer" in optimizer.state[hidden]


@WAYS
@KIND
def test_numbers_of_numpy_become_pythons(way, kind):
    """A checkpoint with numpy's could not be loaded as weights only."""
    given = {"lr": numpy.float32(0.5), "steps": numpy.int64(4), "weight_decay": numpy.float64(0.25)}
    if kind is MuLoCo1:
        given["sync_interval"] = numpy.int64(7)
    group = way(kind, {"params": [matrix()], **given}).param_groups[-1]
    for name, value in given.items():
        assert group[name] == value and type(group[name]) in (int, float)


@WAYS
@KIND
def test_what_schedulers_loggers_and_torch_keep_in_a_group_is_kept(way, kind):
    kept = {"name": "hidden", "initial_lr": 0.1, "max_lr": 0.2, "fused": False, "foreach": None}
    group = way(kind, {"params": [matrix()], **kept, "maximize": False, "differentiable": False}).param_groups[-1]
    assert {name: group[name] for name in kept} == kept and "maximize" not in group


@KIND
def test_a_key_put_into_a_group_by_hand_comes_back_from_a_checkpoint(kind):
    optimizer, other = kind([matrix()]), kind([matrix()])
    for each in (optimizer, other):
        each.param_groups[0]["depth"] = 3
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["depth"] == 3


@KIND
@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ({"fused": True}, "has no option 'fused': set it in a group with algorithm 'adamw'"),
        ({"foreach": True}, "has no option 'foreach': set it in a group"),
        ({"maximize": True}, "has no option 'maximize': negate the loss"),
        ({"capturable": True}, "has no option 'capturable': .*CUDA graph"),
        ({"weight_decy": 0.1}, "has no option 'weight_decy': did you mean 'weight_decay'.*'adjust_lr', .*'betas'"),
        ({"ns_steps": 5}, "has no option 'ns_steps': did you mean 'steps'"),
    ],
)
def test_unknown_keywords_are_explained(kind, keyword, message):
    with pytest.raises(TypeError, match=f"{kind.__name__} {message}"):
        kind([matrix()], **keyword)


@KIND
def test_a_learning_rate_need_not_be_given(kind):
    assert kind(nn.Linear(3, 3)).param_groups[0]["lr"] == 0.02


@KIND
def test_options_of_the_constructor_are_checked_alike(kind):
    for option, message in [
        ({"momentum": "0.9"}, "not '0.9'"),
        ({"eps": math.nan}, "eps"),
        ({"nesterov": 1}, "nesterov"),
    ]:
        with pytest.raises(ValueError, match=message):
            kind([matrix()], **option)


@KIND
@pytest.mark.parametrize("way", [build, add])
@pytest.mark.parametrize(
    ("algorithm", "option", "takers"),
    [
        ("muon", {"betas": (0.9, 0.99)}, "only 'adamw'.* and '.*' take it"),
        ("muon", {"eps": 1e-8}, "only .*'adamw'.* takes? it"),
        ("adamw", {"momentum": 0.5}, "only .*'muon'.* takes? it"),
        ("adamw", {"layout": "flatten"}, "only .*'muon'.* takes? it"),
        ("lion", {"eps": 1e-8}, "only .*'adamw'.* takes? it"),
        ("lion", {"steps": 3}, "only .*'muon'.* takes? it"),
    ],
)
def test_an_option_of_another_rule_is_refused_where_it_is_written(way, kind, algorithm, option, takers):
    (name,) = option
    with pytest.raises(ValueError, match=f"^{name} has no effect .* algorithm '{algorithm}': {takers}"):
        way(kind, {"params": [matrix()], "algorithm": algorithm, **option})


@KIND
def test_defaults_of_every_rule_are_no_mistake_and_neither_is_a_checkpoint_that_has_them(kind):
    groups = [{"params": [matrix()], "algorithm": algorithm} for algorithm in ("muon", "adamw", "lion")]
    optimizer = kind(groups, momentum=0.5, nesterov=True, steps=3, eps=1e-3, betas=(0.5, 0.5))
    kind(groups).load_state_dict(optimizer.state_dict())
    assert "momentum" not in groups[1], "the user's groups are left as they are"


@KIND
@pytest.mark.parametrize("betas", [[0.9], "ab", (0.9, 1.0), None])
def test_betas_are_checked_at_construction_even_if_no_group_uses_them(kind, betas):
    with pytest.raises(ValueError, match=r"betas"):
        kind([matrix()], betas=betas)


@KIND
def test_every_allowed_key_is_listed_once(kind):
    optimizer = kind([{"params": [matrix()], "algorithm": "adamw"}])
    saved = optimizer.state_dict()
    saved["param_groups"][0]["zzz"] = 1
    for mistake in (lambda: kind([{"params": [matrix()], "zzz": 1}]), lambda: optimizer.load_state_dict(saved)):
        with pytest.raises(ValueError, match="allowed are") as caught:
            mistake()
        listed = str(caught.value).split("allowed are ")[1].split(", ")
        assert len(listed) == len(set(listed)) and "'lr_factor'" in listed


def test_the_learning_rate_has_another_name_in_muloco1():
    with pytest.raises(TypeError, match="MuLoCo1 has no option 'lr': use inner_lr"):
        MuLoCo1([matrix()], lr=0.1)
    for kind in (Muon, GPA):
        with pytest.raises(TypeError, match=f"{kind.__name__} has no option 'inner_lr': use lr"):
            kind([matrix()], inner_lr=0.1)
