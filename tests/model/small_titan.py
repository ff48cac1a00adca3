"""Small versions of the models that torchtitan comes with, as flavors `small/MODEL` that a test registers."""

from functools import partial

import pytest

from muloco._torchtitan import ModelSpec, MoE, model_spec
from muloco.model.architecture import Architecture, all_architectures, register
from muloco.model.architectures.titan import from_torchtitan
from muloco.model.architectures.titan.sizes import SIZES

EXPERTS, CHOSEN, HIDDEN = 4, 2, 64
DEBUG_SIZES = {**{model: (model, "debugmodel") for model in SIZES}, "qwen3_moe": ("qwen3", "debugmodel_moe")}
"""For each kind of model, torchtitan's model and its size for debugging."""
MIXTURES = ("deepseek_v3", "gpt_oss", "kimi_k2_7", "qwen3_moe")


def small_spec(kind: str) -> ModelSpec:
    """torchtitan's specification of the first two layers of a model for debugging, with few and narrow experts."""
    spec = model_spec(*DEBUG_SIZES[kind])
    config = spec.model
    del config.layers[2:]
    for _, moe, _, _ in config.traverse(MoE.Config):
        experts, dispatcher = moe.routed_experts.inner_experts, moe.routed_experts.token_dispatcher
        for part in (moe, moe.router, experts, dispatcher):
            part.num_experts = EXPERTS
        moe.router.top_k = dispatcher.top_k = CHOSEN
        moe.router.gate.out_features, experts.hidden_dim = EXPERTS, HIDDEN
    return spec


def small_record() -> Architecture:
    return from_torchtitan("small", {kind: partial(small_spec, kind) for kind in DEBUG_SIZES})


@pytest.fixture
def small_models(monkeypatch: pytest.MonkeyPatch) -> Architecture:
    """Registers the small models until the end of the test."""
    monkeypatch.setattr("muloco.model.architecture._ARCHITECTURES", {new.name: new for new in all_architectures()})
    return register(small_record())
