"""Which parameter gets which rule, on models of several makes."""

import pytest
import torch
from torch import nn

from muloco.optim import GPA, MuLoCo1, Muon
from muloco.optim.choices import ALGORITHMS
from muloco.optim.roles import roles_of, splits_of


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


def forms(params, **options):
    """Role, layout and split of each parameter, by name."""
    return {
        name: (group["role"], group["layout"], group.get("split"))
        for group in Muon(params, **options).param_groups
        for name in group["param_names"]
    }


MIXTURES = {  # names of torchtitan's deepseek_v3 and gpt_oss, DeepSeek with numbered experts, and Mixtral
    "stacks": (
        {
            "layers.1.moe.router.gate.weight": (3, 8),
            "layers.1.moe.routed_experts.inner_experts.w1_EFD": (3, 6, 8),
            "layers.1.moe.routed_experts.inner_experts.mlp1_bias_EG": (3, 6),
            "layers.1.moe.shared_experts.w1.weight": (6, 8),
            "layers.1.attention.sinks": (4,),
            "layers.1.mixer.A_log": (6, 4),
        },
        ["router", "matrix", "scalar", "matrix", "scalar", "scalar"],
    ),
    "numbered": (
        {
            **{f"layers.1.mlp.experts.{expert}.up.weight": (6, 8) for expert in range(3)},
            "layers.1.mlp.experts.0.conv.weight": (6, 1, 4),
            "layers.1.mlp.gate.weight": (3, 8),
            "layers.1.mlp.shared_expert_gate.weight": (1, 8),
            "layers.0.mlp.gate.weight": (3, 8),  # of a feed-forward without experts
            "layers.1.mlp.experts.0.gate.weight": (3, 8),
        },
        ["matrix", "matrix", "matrix", "other", "router", "matrix", "matrix", "matrix"],
    ),
    "a stack and a gate": (
        {"layers.1.moe.experts.w1": (3, 6, 8), "layers.1.moe.gate.weight": (3, 8), "layers.1.gate.weight": (6, 8)},
        ["matrix", "router", "matrix"],
    ),
}


@pytest.mark.parametrize(("shapes", "expected"), MIXTURES.values(), ids=MIXTURES)
def test_experts_routers_and_their_biases_are_known_by_name_and_shape(shapes, expected):
    found = forms([(name, torch.ones(shape)) for name, shape in shapes.items()])
    assert [found[name][0] for name in shapes] == expected
    assert all(
        layout == ("stacked" if len(shapes[name]) == 3 and role == "matrix" else None)
        for name, (role, layout, _) in found.items()
    )
    assert all(ALGORITHMS[role] == "muon" for role in ("matrix", "router"))


def test_modules_of_torch_tell_their_fused_projections_and_norms():
    model = nn.ModuleDict({"norm": nn.LayerNorm((3, 4, 5)), "attention": nn.MultiheadAttention(8, 2)})
    found = forms(model)
    assert found["attention.in_proj_weight"] == ("matrix", None, (8, 8, 8))
    assert found["norm.weight"][0] == found["norm.bias"][0] == found["attention.in_proj_bias"][0] == "scalar"


@pytest.mark.parametrize(
    ("kind", "options", "layout", "split", "router"),
    [
        ("mixtral", {"num_local_experts": 4}, "stacked", (12, 12), "gate"),
        ("gpt_oss", {"num_local_experts": 4, "head_dim": 4}, "stacked_transposed", (1, 1), "router"),
        ("llama4_text", {"num_local_experts": 4, "head_dim": 4}, "stacked_transposed", (12, 12), "router"),
    ],
)
def test_experts_of_transformers_are_sorted(kind, options, layout, split, router):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 17, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = transformers.AutoConfig.for_model(kind, **sizes, **heads, **options)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    found = {name.removeprefix("model.layers.0."): form for name, form in forms(model).items()}
    block = "feed_forward" if kind == "llama4_text" else "mlp"
    assert found[f"{block}.experts.gate_up_proj"] == ("matrix", layout, split)
    assert found[f"{block}.experts.down_proj"] == ("matrix", layout, None)
    assert found[f"{block}.{router}.weight"][0] == "router"
    assert {role for name, (role, *_) in found.items() if "bias" in name or "sinks" in name} <= {"scalar"}


def test_torchtitans_fused_projection_is_stepped_as_its_separate_one():
    """torchtitan itself says which rows are whose, as it saves both kinds under the same names."""
    pytest.importorskip("torchtitan")
    import muloco._torchtitan  # noqa: F401
    from torchtitan.models.common.attention import FusedQKVLinear, QKVLinear  # isort: skip
    from torchtitan.models.common.linear import Linear  # isort: skip

    def linear(rows):
        return Linear.Config(in_features=8, out_features=rows, bias=False)

    fused = FusedQKVLinear.Config(head_dim=4, n_heads=6, n_kv_heads=2, wqkv=linear(40)).build()
    apart = QKVLinear.Config(head_dim=4, wq=linear(24), wkv=linear(8)).build()
    torch.manual_seed(0)
    nn.init.normal_(fused.wqkv.weight)
    apart.load_state_dict(fused.state_dict())
    for optimizer in (Muon(fused, 0.1, weight_decay=0.1), Muon(apart, 0.1, weight_decay=0.1)):
        for step in range(3):
            optimizer.zero_grad()
            model = fused if optimizer.param_groups[0]["params"][0] is fused.wqkv.weight else apart
            inputs = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(step))
            sum(part.sin().sum() for part in model(inputs)).backward()
            optimizer.step()
    for (name, own), its in zip(fused.state_dict().items(), apart.state_dict().values(), strict=True):
        torch.testing.assert_close(own, its, rtol=0, atol=1e-6, msg=name)
    assert "wqkv.weight [40, 8] as [24, 8], 2 of [8, 8]" in Muon(fused).describe_groups()
    assert splits_of(fused) == {"wqkv.weight": (12, 4, 4)} and roles_of(fused) == {"wqkv.weight": "matrix"}


@pytest.mark.parametrize("kind", [Muon, MuLoCo1, GPA])
def test_a_user_may_choose_by_name(kind):
    """The first regular expression that matches decides."""
    optimizer = kind(
        Decoder(),
        role_of={r"layers\.1\.output": "other", r"lm_head": "matrix"},
        split={r"layers\.0\.att": [4, 4], "attention": [1, 1]},
        per_head={"attention": 4, "lm_head": [17]},
    )
    found = {name: group for group in optimizer.param_groups for name in group["param_names"]}
    assert found["layers.1.output.weight"]["algorithm"] == "adamw" and found["lm_head.weight"]["algorithm"] == "muon"
    assert found["layers.0.output.weight"]["role"] == "matrix" and "split" not in found["layers.0.output.weight"]
    assert found["layers.0.attention.weight"]["split"] == (4, 4)
    assert found["layers.2.attention.weight"]["split"] == (1, 1)
    assert found["layers.2.attention.weight"]["per_head"] == 4 and found["lm_head.weight"]["per_head"] == (17,)
    assert "    layers.*.attention.weight [8, 8] as 2 of [4, 8] x 2" in str(optimizer).splitlines()


def test_what_fits_no_head_names_the_parameter():
    with pytest.raises(ValueError, match=r"'layers.0.attention.weight' of shape \(8, 8\) has a part of 2 outputs"):
        Muon(Decoder(), split={r"layers\.0\.att": [4, 2, 2]}, per_head={"attention": 4})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"role_of": {"lm_hed": "matrix"}}, "role_of: 'lm_hed' is in the name of no parameter; such a name is embed"),
        ({"role_of": {"lm_head": "matrx"}}, "unknown role 'matrx': did you mean 'matrix'"),
        ({"role_of": {"(": "matrix"}}, r"role_of: '\(' is not a regular expression"),
        ({"role_of": ["lm_head"]}, "role_of must be by regular expressions of names, such as .*, not "),
        ({"split": {"norm": [4, 4]}}, "split: 'norm' is in the name of no matrix"),
        ({"split": {"attention": 4}}, r"split\['attention'\] must be a list that is not empty, not 4"),
        ({"per_head": {"attention": 0}}, r"per_head\['attention'\] must be an integer of at least 1, not 0"),
    ],
)
def test_choices_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Muon(Decoder(), **options)


@pytest.mark.parametrize("name", ["role_of", "split", "per_head"])
def test_choices_by_name_need_names(name):
    with pytest.raises(ValueError, match=f"{name} needs names: pass a module or"):
        Muon([{"params": [torch.ones(2, 2)]}], **{name: {"a": "matrix" if name == "role_of" else [1]}})
