"""The models that torchtitan comes with, as flavors: what muloco says of them, and training."""

import re

import pytest
import torch

from muloco._torchtitan import ModelSpec, model_sizes, model_spec
from muloco.model import build
from muloco.model.architecture import Architecture
from muloco.model.architectures.titan import from_torchtitan
from muloco.model.architectures.titan.listing import KNOWN_OBSTACLES, listed
from muloco.model.architectures.titan.sizes import OBSTACLES, SIZES
from muloco.model.attention import DenseDocumentAttention
from muloco.model.flavors import flavor

from .small_titan import CHOSEN, DEBUG_SIZES, EXPERTS, MIXTURES, small_models, small_spec  # noqa: F401 (a fixture)

from torchtitan.models.gpt_oss.model import apply_attention_sink_rescale  # isort: skip


QKV = "layers.1.attention.qkv_linear.wqkv.weight"


def test_the_table_of_sizes_is_current() -> None:
    """It has every model of the installed torchtitan, with all its sizes. `python -m
    muloco.model.architectures.titan.listing` writes it."""
    assert listed() == (SIZES, OBSTACLES)


@pytest.mark.parametrize("model", sorted(KNOWN_OBSTACLES))
def test_an_obstacle_is_still_there(model: str) -> None:
    spec = model_spec(model, model_sizes(model)[0])
    with pytest.raises(NotImplementedError, match="only supports spmd_backend='spmd_types'"):
        spec.parallelize_fn(
            None,
            parallel_dims=None,
            training=None,
            parallelism=type("Parallelism", (), {"spmd_backend": "partial_dtensor"}),
            compile_config=None,
            ac_config=None,
            dump_folder="",
        )


@pytest.mark.parametrize("kind", DEBUG_SIZES)
def test_initial_values_are_torchtitans(kind: str, small_models: Architecture) -> None:  # noqa: F811
    name = f"small/{kind}"
    torch.manual_seed(1)
    ours = build(name, "cpu", seq_len=32)
    theirs = small_spec(kind).model
    if hasattr(theirs, "vision_encoder"):
        theirs.vision_encoder = None
    with torch.device("meta"):
        model = theirs.build()
    model.to_empty(device="cpu")
    torch.manual_seed(1)
    with torch.no_grad():
        model.init_weights()
    expected, found = model.state_dict(), ours.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert {name: tuple(value.shape) for name, value in ours.named_parameters()} == dict(flavor(name).shapes)


@pytest.mark.parametrize("kind", DEBUG_SIZES)
def test_every_parameter_has_the_role_of_its_use(kind: str, small_models: Architecture) -> None:  # noqa: F811
    size = flavor(f"small/{kind}")
    roles = {name: size.role(name) for name in size.shapes}
    assert set(roles.values()) == set(size.roles), "torchtitan refuses a pattern that matches nothing"
    for name, role in roles.items():
        *_, module, last = name.split(".")
        if name == "tok_embeddings.weight":
            assert role == "embedding"
        elif name == "lm_head.weight":
            assert role == "head"
        elif name.endswith("router.gate.weight"):
            assert role == "router"
        elif re.fullmatch(r"w[qkvo123]|wqkv|wq_[ab]|wkv_[ab]", module) and last == "weight":
            assert role == "matrix", name
        elif len(size.shapes[name]) == 3:
            assert role == "matrix", f"{name}, a stack of experts"
        else:
            assert role == "scalar", f"{name}: norms, biases and sinks"
    assert ("lm_head.weight" in roles) != build(size.name).config.enable_weight_tying
    splits = {rows for pattern, rows in size.fused.items() if re.search(pattern, QKV)}
    assert len(splits) == (0 if kind in ("deepseek_v3", "kimi_k2_7") else 1), "q, k and v are matrices of their own"


@pytest.mark.parametrize("kind", MIXTURES)
def test_active_parameters_are_those_that_a_token_meets(kind: str, small_models: Architecture) -> None:  # noqa: F811
    size = flavor(f"small/{kind}")
    experts = size.parameters - size.active_parameters
    stacked = sum(torch.Size(shape).numel() for name, shape in size.shapes.items() if ".routed_experts." in name)
    assert experts == stacked * (EXPERTS - CHOSEN) // EXPERTS
    assert size.flops_per_token == 6 * size.active_parameters


def one_window() -> ModelSpec:
    """The first layer of gpt_oss alone, in which a token sees four."""
    spec = small_spec("gpt_oss")
    del spec.model.layers[1:]
    assert spec.model.layers[0].attention.sliding_window_size
    spec.model.layers[0].attention.sliding_window_size = 4
    return spec


def test_a_token_sees_its_window_of_its_document() -> None:
    """By the gradient of logits with respect to the embedded tokens, which is zero for what a token does not see."""
    record = from_torchtitan("window", {"one": one_window})
    model = record.spec(record.flavors[0], seq_len=12, dense=True, autocast=False).model.build()
    torch.manual_seed(0)
    with torch.no_grad():
        model.init_states()
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4]])
    embedded: list[torch.Tensor] = []
    model.tok_embeddings.register_forward_hook(lambda module, args, out: embedded.append(out))
    logits = model(torch.arange(12)[None], positions=positions, attention_masks=model.get_attention_masks(positions))
    for token, seen in ((6, [3, 4, 5, 6]), (7, [7]), (11, [8, 9, 10, 11])):
        (gradient,) = torch.autograd.grad(logits[0, token].sum(), embedded, retain_graph=True)
        assert gradient[0].abs().sum(-1).nonzero().flatten().tolist() == seen


def test_attention_sinks_take_their_share_of_the_softmax() -> None:
    """A sink is a key more, whose value is zero and whose product with every query is the sink."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 5, heads, 8, generator=generator) for heads in (4, 2, 2))
    sinks = torch.randn(4, generator=generator)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    found = DenseDocumentAttention.Config().build()(
        q,
        k,
        v,
        attention_masks=mask,
        scale=0.3,
        enable_gqa=True,
        out_transform=lambda out, lse: apply_attention_sink_rescale(out, lse, sinks),
    )
    for row in range(2):
        for head in range(4):
            scores = (0.3 * q[row, :, head] @ k[row, :, head // 2].T).masked_fill(~mask[0, 0], -torch.inf)
            shares = torch.cat([scores, sinks[head].expand(5, 1)], dim=1).softmax(dim=1)[:, :-1]
            torch.testing.assert_close(found[row, :, head], shares @ v[row, :, head // 2])


def test_experts_compute_in_the_dtype_of_the_model(small_models: Architecture) -> None:  # noqa: F811
    """torchtitan's round their input and weights to bf16. Here they do so under autocast alone."""
    torch.manual_seed(0)
    model = build("small/qwen3_moe", "cpu", seq_len=16)
    layer = model.layers["1"].moe
    x = torch.randn(2, 16, 256)
    with torch.no_grad():
        found = layer(x)
        chosen, ids, _ = layer.router(x, layer.expert_bias_E)
        expected = torch.zeros_like(x)
        experts = layer.routed_experts.inner_experts
        for share, index in zip(chosen.unbind(-1), ids.unbind(-1), strict=True):
            w1, w2, w3 = experts.w1_EFD[index], experts.w2_EDF[index], experts.w3_EFD[index]
            up = torch.nn.functional.silu(torch.einsum("blfd,bld->blf", w1, x)) * torch.einsum("blfd,bld->blf", w3, x)
            expected += share[..., None] * torch.einsum("bldf,blf->bld", w2, up)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
