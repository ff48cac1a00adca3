"""Which parameter gets which rule, on models of several makes."""

import pytest
import torch
from torch import nn

from muloco.optim import GPA, MuLoCo1, Muon


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
        expected[f"layers.{layer}.attention.bias"] = ("scalar", "adamw")
        expected[f"layers.{layer}.norm.weight"] = expected[f"layers.{layer}.norm.bias"] = ("scalar", "adamw")
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
        ("scale", (), "scalar"),
        ("bias", (8,), "scalar"),
        ("fc.weight", (5, 8), "matrix"),  # these may be the names of a part of a model
    ],
)
def test_roles_by_name_and_shape(name, shape, role):
    others = [("embed.weight", torch.ones(17, 8)), *((f"layers.{i}.wq.weight", torch.ones(8, 8)) for i in range(2))]
    assert roles(Muon([*others, (name, torch.ones(shape))], 0.1))[name][0] == role


def test_an_embedding_module_is_known_by_its_type():
    model = nn.Sequential(nn.Embedding(17, 8), nn.Linear(8, 8), nn.Linear(8, 17))
    found = {name: role for name, (role, _) in roles(Muon(model, 0.1)).items()}
    assert found == {
        **{"0.weight": "embedding", "1.weight": "matrix", "2.weight": "head"},
        **{"1.bias": "scalar", "2.bias": "scalar"},
    }


class VGG(nn.Module):
    """Convolutions and a classifier, named as in torchvision."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6))
        self.up = nn.ConvTranspose2d(6, 6, 2)
        self.classifier = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 10))


def actor_critic(policy, value):
    return nn.ModuleDict({"body": nn.Linear(6, 16), "policy": policy, "value": value})


def square(size):
    return nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))


def two_blocks(last=None):
    blocks = nn.ModuleList(nn.ModuleDict({"up": nn.Linear(8, 24), "down": nn.Linear(12, 5)}) for _ in range(2))
    return nn.ModuleDict({"blocks": blocks} | ({"last": last} if last else {}))


@pytest.mark.parametrize(
    ("model", "heads"),
    [
        (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), ["2.weight"]),
        (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)), []),  # may be fed back
        (nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 3)), ["1.weight"]),
        (nn.Linear(4, 3), []),  # else there would be nothing for Muon
        (two_blocks(), []),  # 5 outputs, but in numbered layers
        (two_blocks(nn.Linear(5, 2)), ["last.weight"]),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 21, 1)), ["2.weight"]),
        (VGG(), ["classifier.4.weight"]),
        (nn.ModuleDict({"head": nn.Linear(8, 3), "body": nn.Linear(4, 8), "more": nn.Linear(8, 7)}), ["head.weight"]),
        (nn.Sequential(nn.Tanh(), nn.LayerNorm(3)), []),
        # several heads on the same features
        (actor_critic(nn.Linear(16, 4), nn.Linear(16, 1)), ["policy.weight", "value.weight"]),
        (actor_critic(nn.Linear(16, 16), nn.Linear(16, 1)), ["value.weight"]),  # 16 to 16 may be hidden
        (nn.ModuleDict({"policy": nn.Linear(8, 4), "value": nn.Linear(8, 1)}), []),  # else nothing for Muon
        (nn.Sequential(nn.Conv2d(3, 32, 3), nn.Flatten(), nn.Linear(288, 10)), ["2.weight"]),
        # names come before positions
        (
            nn.ModuleDict({"classifier": square(8), "features": nn.Sequential(nn.Conv2d(3, 8, 3))}),
            ["classifier.2.weight"],
        ),
        (nn.ModuleDict({"features": nn.Conv2d(3, 8, 3), "classifier": square(8)}), ["classifier.2.weight"]),
        (nn.ModuleDict({"policy_head": nn.Linear(8, 8), "body": nn.Linear(8, 8)}), ["policy_head.weight"]),
        (nn.ModuleDict({"body": nn.Linear(8, 8), "fc": nn.Linear(8, 8)}), ["fc.weight"]),
        (nn.ModuleDict({"fc": nn.Linear(8, 8), "body": nn.Linear(8, 8)}), []),
        # the first convolution takes the model's inputs
        (nn.ModuleDict({"dense": nn.Linear(8, 8), "conv": nn.Conv2d(3, 5, 3)}), []),
        (nn.ModuleDict({"head": nn.Sequential(nn.Conv2d(3, 8, 3)), "tail": nn.Conv2d(8, 12, 3)}), ["tail.weight"]),
        (nn.ModuleDict({"body": nn.Conv2d(3, 8, 3), "classifier": nn.Conv2d(8, 3, 1)}), ["classifier.weight"]),
    ],
)
def test_heads_of_a_module_by_name_and_by_position(model, heads):
    assert [name for name, (role, _) in roles(Muon(model, 0.1)).items() if role == "head"] == heads


def test_convolutions_of_a_module_are_flattened_matrices():
    """Not those with groups, which are several, nor transposed ones, whose first dimension are the inputs."""
    optimizer = MuLoCo1(VGG())
    found = {name: group for group in optimizer.param_groups for name in group["param_names"]}
    assert (found["features.0.weight"]["algorithm"], found["features.0.weight"]["layout"]) == ("muon", "flatten")
    assert found["features.2.weight"]["role"] == found["up.weight"]["role"] == "other"
    assert "    features.0.weight [6, 3, 3, 3] as [6, 27]" in optimizer.describe_groups().splitlines()


def test_matrices_of_transformers_conv1d_are_stored_transposed():
    """The step is that of the same matrix in an nn.Linear."""
    pytest.importorskip("transformers")
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    ours, theirs = Conv1D(9, 4), nn.Linear(4, 9)
    theirs.load_state_dict({"weight": ours.weight.T, "bias": ours.bias})
    for layer in (ours, theirs):
        optimizer = Muon(layer, 0.1, weight_decay=0.1)
        layer(torch.arange(8.0).reshape(2, 4)).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(ours.weight.T, theirs.weight)
    assert "weight [4, 9] as [9, 4]" in Muon(ours).describe_groups()


def test_gpt2_is_sorted():
    pytest.importorskip("transformers")
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=17, n_positions=6, n_embd=8, n_layer=2, n_head=2))
    optimizer = Muon(model)
    found = {(group["role"], group["layout"]): group["param_names"] for group in optimizer.param_groups}
    assert found.keys() == {("matrix", "transposed"), ("embedding", None), ("scalar", None)}
    assert found["embedding", None] == ["transformer.wte.weight", "transformer.wpe.weight"]
    assert len(found["matrix", "transposed"]) == 2 * 4


def test_norms_and_biases_do_not_decay():
    for optimizer in (
        Muon(Decoder(), weight_decay=0.3),
        MuLoCo1(Decoder(), weight_decay=0.3),
        GPA(Decoder(), weight_decay=0.3),
    ):
        decays = {group["role"]: group["weight_decay"] for group in optimizer.param_groups}
        assert decays == {"matrix": 0.3, "embedding": 0.3, "head": 0.3, "scalar": 0.0}
        assert "adamw (scalar, no weight decay): 9 parameters" in str(optimizer)


@pytest.mark.parametrize("role", ["matrix", "embedding", "head", "scalar", "other"])
def test_a_group_may_say_its_role(role):
    (group,) = Muon([{"params": [torch.ones(3, 3)], "role": role}], weight_decay=0.3).param_groups
    assert group["algorithm"] == ("muon" if role == "matrix" else "adamw")
    assert group["weight_decay"] == (0 if role == "scalar" else 0.3)
    (group,) = Muon(
        [{"params": [torch.ones(3, 3)], "role": role, "algorithm": "lion", "weight_decay": 0.1}]
    ).param_groups
    assert (group["role"], group["algorithm"], group["weight_decay"]) == (role, "lion", 0.1)


def test_the_account_says_how():
    lines = MuLoCo1(Decoder()).describe_groups().splitlines()
    assert lines == [
        "muon (matrix): 6 parameters, 384 elements",
        "    layers.*.attention.weight [8, 8] x 3",
        "    layers.*.output.weight [8, 8] x 3",
        "adamw (embedding): 1 parameters, 136 elements",
        "    embed_tokens.weight [17, 8]",
        "adamw (head): 1 parameters, 136 elements",
        "    lm_head.weight [17, 8]",
        "adamw (scalar, no weight decay): 9 parameters, 72 elements",
        "    layers.*.attention.bias [8] x 3",
        "    layers.*.norm.weight [8] x 3",
        "    layers.*.norm.bias [8] x 3",
    ]
    assert (
        "muon (as its group says): 1 parameters, 4 elements\n    without name [2, 2]"
        in Muon([torch.ones(2, 2)], 0.1).describe_groups()
    )


def test_the_account_of_a_sequential_shows_which_layer_is_which():
    lines = str(Muon(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)))).splitlines()
    assert lines[1:] == [
        "muon (matrix): 2 parameters, 128 elements",
        "    0.weight [8, 8]",
        "    1.weight [8, 8]",
        "adamw (head): 1 parameters, 24 elements",
        "    2.weight [3, 8]",
        "adamw (scalar): 3 parameters, 19 elements",
        "    0.bias [8]",
        "    1.bias [8]",
        "    2.bias [3]",
    ]


def test_sorted_groups_are_logged(caplog):
    caplog.set_level("INFO", logger="muloco.optim.rule_optimizer")
    optimizer = Muon(Decoder(), 0.1)
    assert optimizer.describe_groups() in caplog.text


def test_roles_survive_a_state_dict():
    model = Decoder()
    optimizer = MuLoCo1(model)
    other = MuLoCo1(model)
    other.load_state_dict(optimizer.state_dict())
    assert other.describe_groups() == optimizer.describe_groups()


def test_parameters_without_names_are_muons_and_the_refusal_says_what_else_there_is():
    with pytest.raises(ValueError, match=r"shape \(8,\).*a module or its named_parameters\(\)"):
        MuLoCo1(nn.Linear(8, 8).parameters())
    with pytest.raises(ValueError, match="empty"):
        MuLoCo1(nn.Tanh())
