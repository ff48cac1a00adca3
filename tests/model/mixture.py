"""A mixture of experts for tests: torchtitan's Qwen3 with routers and load balancing, small enough for any test."""

from dataclasses import dataclass
from functools import cached_property

from torch import nn

import muloco.model
from muloco._torchtitan import Embedding, ModelSpec, RMSNorm, make_gqa_config
from muloco.model.architecture import Architecture, Flavor
from muloco.model.decoder import Head, MulocoDecoder, attention, drawn, parallelized

# torchtitan's own, imported behind the gate
from torchtitan.components.optimizer import register_moe_load_balancing_hook  # isort: skip
from torchtitan.models.common import CosSinRoPE  # isort: skip
from torchtitan.models.common.config_utils import make_moe_config, make_routed_experts_config, make_router_config  # isort: skip
from torchtitan.models.qwen3 import Qwen3Model, parallelize_qwen3  # isort: skip
from torchtitan.models.qwen3.model import Qwen3TransformerBlock  # isort: skip

WIDTH, LAYERS, HEADS, KEYS, HEAD_WIDTH, INNER = 32, 2, 4, 2, 16, 32
EXPERTS, CHOSEN, STEP = 4, 2, 0.05
"""Experts of a layer, how many a token goes to, and by how much load balancing moves a router's biases in a step."""


@dataclass(frozen=True, kw_only=True)
class Size(Flavor):
    architecture: str = "mixture"

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        model = muloco.model.build(self.name)
        return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}

    @property
    def divided(self) -> dict[str, int]:
        return {"groups of keys and values": KEYS}


class Mixture(MulocoDecoder, Qwen3Model):
    @dataclass(kw_only=True, slots=True)
    class Config(Qwen3Model.Config):
        autocast: bool = False


def spec(flavor: Size, *, seq_len: int, dense: bool, autocast: bool) -> ModelSpec:
    draw = drawn(nn.init.normal_, std=0.02)
    init = {"weight": draw}

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
        moe=make_moe_config(
            num_experts=EXPERTS,
            load_balance_coeff=STEP,
            router=make_router_config(
                dim=WIDTH,
                num_experts=EXPERTS,
                gate_param_init=init,
                top_k=CHOSEN,
                score_func="softmax",
                route_norm=True,
            ),
            routed_experts=make_routed_experts_config(
                dim=WIDTH,
                hidden_dim=INNER,
                num_experts=EXPERTS,
                top_k=CHOSEN,
                param_init={"w1_EFD": draw, "w2_EDF": draw, "w3_EFD": draw},
                comm_backend="standard",
            ),
        ),
    )
    model = Mixture.Config(
        autocast=autocast,
        dim=WIDTH,
        vocab_size=flavor.vocabulary,
        tok_embeddings=Embedding.Config(num_embeddings=flavor.vocabulary, embedding_dim=WIDTH, param_init=init),
        layers=[layer] * LAYERS,
        norm=norm(WIDTH),
        lm_head=Head.Config(autocast=autocast, in_features=WIDTH, out_features=flavor.vocabulary, param_init=init),
    )
    return ModelSpec(
        name="mixture",
        flavor=flavor.name,
        model=model,
        parallelize_fn=parallelized(parallelize_qwen3),
        pipelining_fn=None,
        post_optimizer_build_fn=register_moe_load_balancing_hook,
        state_dict_adapter=None,
    )


MIXTURE = Architecture(
    name="mixture",
    flavors=(Size(alias="mixture-tiny", vocabulary=2048),),
    spec=spec,
    roles={
        "matrix": r"^layers\.\d+\.attention\.(qkv_linear\.w[qkv]|wo)\.weight$",
        "embedding": r"^tok_embeddings\.weight$",
        "head": r"^lm_head\.weight$",
        "scalar": r"norm\.weight$|^layers\.\d+\.moe\.",
    },
)
