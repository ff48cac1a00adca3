"""Which parameter gets which rule, on models of several makes."""

import pytest
import torch
from torch import nn

from muloco.optim import MuLoCo1, Muon


class Decoder(nn.Module):
    """Named as in Hugging Face's models."""

    def __init__(self, tied=False):
        super().__init__()
        self.embed_tokens = nn.Embedding(17, 8)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {"attention": nn.Linear(8, 8), "output": nn.Linear(8, 8, bias=False), "norm": nn.LayerNorm(8)}
            )
            for _ in range(3)
        )
        self.lm_head = nn.Linear(8, 17, bias=False)
        if tied:
            self.lm_head.weight = self.embed_tokens.weight


def roles(optimizer):
    return {
        name: (group["role"], group["algorithm"]) for group in optimizer.param_groups for name in group["param_names"]
    }


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("build", [lambda params: Muon(params, 0.1), MuLoCo1], ids=["Muon", "MuLoCo1"])
def test_matrices_go_to_muon_and_the_rest_to_adamw(build, named, tied):
    model = Decoder(tied)
    found = roles(build(model.named_parameters() if named else model))
    expected = {"embed_tokens.weight": ("embedding", "adamw")}
    if not tied:
        expected["lm_head.weight"] = ("head", "adamw")
    for layer in range(3):
        expected[f"layers.{layer}.attention.weight"] = ("matrix", "muon")
        expected[f"layers.{layer}.output.weight"] = ("matrix", "muon")
        expected[f"layers.{layer}.attention.bias"] = ("other", "adamw")
        expected[f"layers.{layer}.norm.weight"] = expected[f"layers.{layer}.norm.bias"] = ("other", "adamw")
    assert found == expected


@pytest.mark.parametrize(
    ("name", "shape", "role"),
    [
        ("transformer.wte.weight", (17, 8), "embedding"),
        ("module._orig_mod.tok_embeddings.weight", (17, 8), "embedding"),
        ("token_embedding", (17, 8), "embedding"),
        ("output.weight", (16, 8), "head"),
        ("unusual.weight", (17, 8), "head"),  # the shape of the embedding
        ("model.score.weight", (2, 8), "head"),
        ("layers.0.mlp.head.weight", (8, 8), "matrix"),
        ("layers.0.memberships.weight", (8, 8), "matrix"),
        ("conv.weight", (8, 3, 3, 3), "other"),
        ("pos_embed", (1, 9, 8), "other"),
        ("scale", (), "other"),
    ],
)
def test_roles_by_name_and_shape(name, shape, role):
    others = [("embed.weight", torch.ones(17, 8)), ("layers.0.wq.weight", torch.ones(8, 8))]
    assert roles(Muon([*others, (name, torch.ones(shape))], 0.1))[name][0] == role


def test_an_embedding_module_is_known_by_its_type():
    model = nn.Sequential(nn.Embedding(17, 8), nn.Linear(8, 8), nn.Linear(8, 17))
    assert [role for role, _ in roles(Muon(model, 0.1)).values()] == ["matrix", "matrix", "embedding", "other", "other"]
    assert roles(Muon(model, 0.1))["0.weight"] == ("embedding", "adamw")


def test_the_account_says_how():
    lines = MuLoCo1(Decoder()).account().splitlines()
    assert lines == [
        "muon (matrix): 6 parameters, 384 elements",
        "    layers.*.attention.weight [8, 8] x 3",
        "    layers.*.output.weight [8, 8] x 3",
        "adamw (embedding): 1 parameters, 136 elements",
        "    embed_tokens.weight [17, 8]",
        "adamw (head): 1 parameters, 136 elements",
        "    lm_head.weight [17, 8]",
        "adamw (other): 9 parameters, 72 elements",
        "    layers.*.attention.bias [8] x 3",
        "    layers.*.norm.weight [8] x 3",
        "    layers.*.norm.bias [8] x 3",
    ]
    assert (
        "muon (as its group says): 1 parameters, 4 elements\n    without name [2, 2]"
        in Muon([torch.ones(2, 2)], 0.1).account()
    )


def test_sorted_groups_are_logged(caplog):
    caplog.set_level("INFO", logger="muloco.optim.by_rule")
    optimizer = Muon(Decoder(), 0.1)
    assert optimizer.account() in caplog.text


def test_roles_survive_a_state_dict():
    model = Decoder()
    optimizer = MuLoCo1(model)
    other = MuLoCo1(model)
    other.load_state_dict(optimizer.state_dict())
    assert other.account() == optimizer.account()


def test_parameters_without_names_are_muons_and_the_refusal_says_what_else_there_is():
    with pytest.raises(ValueError, match=r"shape \(8,\).*a module or its named_parameters\(\) are sorted for you"):
        MuLoCo1(nn.Linear(8, 8).parameters())
    with pytest.raises(ValueError, match="empty"):
        MuLoCo1(nn.Tanh())
