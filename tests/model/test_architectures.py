"""Registered all_architectures keep what their records say; a second one needs nothing but its record."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import muloco.model
from muloco._torchtitan import Embedding, ModelSpec, RMSNorm, make_ffn_config, make_gqa_config
from muloco.analysis.plan import plan
from muloco.errors import UserError
from muloco.export.folders import export_huggingface
from muloco.model.architecture import Architecture, Flavor, all_architectures, register
from muloco.model.buffers import averaged_buffers
from muloco.model.decoder import Head, MulocoDecoder, attention, drawn, parallelized
from muloco.model.flavors import flavor
from muloco.optim.roles import group_by_role, splits_of
from muloco.resolve import resolve
from muloco.settings.load import load_config
from muloco.training.outer import build_compression
from muloco.training.trained import find_trained

from ..training.one_worker import losses, train

# torchtitan's own Qwen3, imported behind the gate: grouped-query attention, and a head tied to the embedding
from torchtitan.models.common import CosSinRoPE  # isort: skip
from torchtitan.models.qwen3 import Qwen3Model, parallelize_qwen3  # isort: skip
from torchtitan.models.qwen3.model import Qwen3TransformerBlock  # isort: skip

MATRICES = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")
WIDTH, LAYERS, HEADS, KEYS, HEAD_WIDTH, INNER = 32, 2, 4, 2, 16, 80


@dataclass(frozen=True, kw_only=True)
class Size(Flavor):
    architecture: str = "qwen3"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        queries, keys = HEADS * HEAD_WIDTH, KEYS * HEAD_WIDTH
        layer = {
            "attention.qkv_linear.wq.weight": (queries, WIDTH),
            "attention.qkv_linear.wk.weight": (keys, WIDTH),
            "attention.qkv_linear.wv.weight": (keys, WIDTH),
            "attention.wo.weight": (WIDTH, queries),
            "attention.q_norm.weight": (HEAD_WIDTH,),
            "attention.k_norm.weight": (HEAD_WIDTH,),
            "feed_forward.w1.weight": (INNER, WIDTH),
            "feed_forward.w2.weight": (WIDTH, INNER),
            "feed_forward.w3.weight": (INNER, WIDTH),
            "attention_norm.weight": (WIDTH,),
            "ffn_norm.weight": (WIDTH,),
        }
        layers = {f"layers.{index}.{name}": shape for index in range(LAYERS) for name, shape in layer.items()}
        return {"tok_embeddings.weight": (self.vocabulary, WIDTH), **layers, "norm.weight": (WIDTH,)}

    @property
    def divided(self) -> dict[str, int]:
        return {"groups of keys and values": KEYS}


class Qwen3(MulocoDecoder, Qwen3Model):
    @dataclass(kw_only=True, slots=True)
    class Config(Qwen3Model.Config):
        autocast: bool = False


def spec(flavor: Size, *, seq_len: int, dense: bool, autocast: bool) -> ModelSpec:
    init = {"weight": drawn(nn.init.normal_, std=0.02)}
    table = {"num_embeddings": flavor.vocabulary, "embedding_dim": WIDTH}

    def norm(width: int) -> RMSNorm.Config:
        return RMSNorm.Config(normalized_shape=width, eps=1e-6, param_init={"weight": nn.init.ones_})

    layer = Qwen3TransformerBlock.Config(
        attention_norm=norm(WIDTH),
        ffn_norm=norm(WIDTH),
        attention=make_gqa_config(
            dim=WIDTH,
            n_heads=HEADS,
            n_kv_heads=KEYS,
            head_dim=HEAD_WIDTH,
            wqkv_param_init=init,
            wo_param_init=init,
            inner_attention=attention(dense=dense),
            fuse_qkv=False,
            qk_norm=norm(HEAD_WIDTH),
            rope=CosSinRoPE.Config(dim=HEAD_WIDTH, max_seq_len=seq_len, theta=1e6),
        ),
        feed_forward=make_ffn_config(dim=WIDTH, hidden_dim=INNER, w1_param_init=init, w2w3_param_init=init),
    )
    model = Qwen3.Config(
        autocast=autocast,
        dim=WIDTH,
        vocab_size=flavor.vocabulary,
        enable_weight_tying=True,
        tok_embeddings=Embedding.Config(**table, param_init={"weight": lambda weight: None}),
        layers=[layer] * LAYERS,
        norm=norm(WIDTH),
        lm_head=Head.Config(autocast=autocast, in_features=WIDTH, out_features=flavor.vocabulary, param_init=init),
    )
    return ModelSpec(
        name="qwen3",
        flavor=flavor.name,
        model=model,
        parallelize_fn=parallelized(parallelize_qwen3),
        pipelining_fn=None,
        post_optimizer_build_fn=None,
        state_dict_adapter=None,
    )


QWEN3 = Architecture(
    name="qwen3",
    flavors=(Size(alias="qwen3-tiny", vocabulary=2048),),
    spec=spec,
    roles={
        "matrix": r"^layers\.\d+\.(attention\.(qkv_linear\.w[qkv]|wo)|feed_forward\.w[123])\.weight$",
        "embedding": r"^tok_embeddings\.weight$",
        "scalar": r"norm\.weight$",
    },
)


@pytest.fixture(autouse=True)
def _registrations_end_with_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muloco.model.architecture._ARCHITECTURES", {new.name: new for new in all_architectures()})


@pytest.fixture
def qwen3() -> Flavor:
    return register(QWEN3).flavors[0]


def check(flavor: Flavor) -> None:
    """Compares a record with the model that it builds."""
    model = muloco.model.build(flavor.name)
    assert {name: tuple(value.shape) for name, value in model.named_parameters()} == dict(flavor.shapes)
    roles = {name: group["role"] for group in group_by_role(model) for name, _ in group["params"]}
    assert {name: flavor.role(name) for name in flavor.shapes} == roles, "as the library sorts them by itself"
    assert set(flavor.roles) == set(roles.values())
    fused = {name: rows for name in flavor.shapes for pattern, rows in flavor.fused.items() if re.search(pattern, name)}
    assert fused == splits_of(model)
    kept = model.state_dict().keys() - dict(model.named_parameters(remove_duplicate=False)).keys()
    assert all(flavor.record.buffer_rule(name) for name in kept)
    assert averaged_buffers([model], flavor.record).keys() <= kept


OWN = [known for known in all_architectures() if not known.name.startswith("torchtitan/")]
"""The others are in test_titan.py."""


@pytest.mark.parametrize("architecture", OWN, ids=lambda architecture: architecture.name)
def test_a_record_describes_its_models(architecture: Architecture) -> None:
    check(architecture.flavors[0])


def test_a_second_architecture_is_one_record(qwen3: Size, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found by name, built, trained by two workers with streaming and compression, planned and read back."""
    check(qwen3)
    assert flavor("qwen3-tiny") is flavor("qwen3-qwen3-tiny") is qwen3 and qwen3.name in muloco.model.flavors()
    assert qwen3.modules == ["tok_embeddings", "layers.0", "layers.1", "norm"]
    metrics = train(
        tmp_path,
        monkeypatch,
        "muloco",
        model__flavor="qwen3-tiny",
        fault_tolerance__group_size=2,
        fault_tolerance__transport="in_process",
        fault_tolerance__sync_steps=3,
        fault_tolerance__num_fragments=2,
        compression__kind="linear",
        compression__bits=8,
        compression__skip_embeddings=True,
        checkpoint__enable=True,
    )
    digests: dict[tuple[int, int], set[str]] = {}
    for line in metrics:
        if line.get("event") == "sync":
            digests.setdefault((line["step"], line["fragment"]), set()).add(line["digest"])
    assert sorted(digests) == [(1, 0), (3, 1), (4, 0), (6, 0), (6, 1)]
    assert {len(found) for found in digests.values()} == {1}, "the workers hold the same anchor"
    validation = [loss for name, _, loss in losses(metrics) if name == "validation_loss"]
    assert validation[-1] < validation[0] - 0.05

    trained = find_trained(str(tmp_path / "run"))
    planned = plan(trained.config)
    elements = {name: p.numel() for name, p in muloco.model.build(qwen3.name).named_parameters()}
    assert planned.memory.parameters == 4 * sum(elements.values())
    matrices = sum(number for name, number in elements.items() if name.split(".")[-2] in MATRICES)
    assert planned.memory.inner == 4 * (matrices + 2 * (sum(elements.values()) - matrices)), "Muon, and AdamW's two"
    model = trained.model("cpu")
    tokens = torch.arange(8)[None]
    logits = model(tokens, tokens, model.get_attention_masks(tokens))
    assert logits.shape == (1, 8, 2048) and model.lm_head.weight is model.tok_embeddings.weight
    with pytest.raises(UserError, match="the architecture qwen3 have no Hugging Face form; choose --format torch"):
        export_huggingface(trained, tmp_path / "exported", dtype=torch.float32)


def test_settings_ask_the_record(qwen3: Size) -> None:
    chosen = load_config("config/laptop/muloco.py", ["--model.flavor", "qwen3-tiny"])
    resolved = resolve(chosen)
    assert resolved.training.tokens is not None and resolved.model.flavor == "qwen3-qwen3-tiny"
    chosen.parallelism.tensor_parallel_degree = 3
    with pytest.raises(UserError, match="tensor_parallel_degree 3 must divide the 2 groups of keys and values"):
        resolve(chosen)
    skipping = resolved.compression
    skipping.skip_embeddings = True
    parameters = dict(muloco.model.build(qwen3.name).named_parameters())
    assert build_compression(skipping, parameters, tables=qwen3.tables).dense >= {"tok_embeddings.weight"}


class Router(nn.Module):
    """Buffers of each kind: a state that a checkpoint holds, one that it does not hold, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.zeros(3))
        self.register_buffer("counts", torch.zeros(3), persistent=False)
        self.register_buffer("table", torch.arange(3), persistent=False)


@pytest.mark.parametrize(
    ("rules", "names", "message"),
    [
        ({r"\.bias$": "mean", r"\.counts$": "local"}, ["moe.bias"], None),
        ({r"^moe\.b": "local", r"": "mean"}, None, "the buffer moe.counts is averaged, so it has to be persistent"),
        ({r"": "local"}, [], None),
        ({r"\.counts$": "local"}, None, "the buffer moe.bias is part of the model's state, but .* has no rule"),
    ],
)
def test_rules_of_buffers(rules: dict, names: list[str] | None, message: str | None) -> None:
    """The first pattern that matches decides."""
    record = Architecture(name="other", flavors=(), spec=spec, roles={}, buffers=rules)
    model = nn.ModuleDict({"moe": checkpoint_wrapper(Router())})
    if message is None:
        assert list(averaged_buffers([model], record)) == names
        return
    with pytest.raises(ValueError, match=message):
        averaged_buffers([model], record)


@pytest.mark.parametrize(
    ("name", "alias", "named", "message"),
    [
        ("paper_llama", "other", "paper_llama", "an architecture paper_llama already"),
        ("other", "tiny", "other", "a flavor tiny already"),
        ("other", "mine", "qwen3", "flavor mine of other names the architecture qwen3"),
    ],
)
def test_names_are_taken_once(name: str, alias: str, named: str, message: str) -> None:
    sizes, before = (Size(architecture=named, alias=alias, vocabulary=2048),), all_architectures()
    with pytest.raises(ValueError, match=message):
        register(Architecture(name=name, flavors=sizes, spec=spec, roles={}))
    assert all_architectures() == before
