"""The paper's Llama, put together from torchtitan's modules.

It is Llama 3 with an RMSNorm per head on queries and keys, and RMSNorm after as well as before attention and
feed-forward. Query, key and value are three matrices, so that Muon orthogonalizes each by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from muloco._torchtitan import (
    ComplexRoPE,
    Embedding,
    FlexAttention,
    Llama3Model,
    Llama3TransformerBlock,
    ModelSpec,
    RMSNorm,
    ShardingConfig,
    dense_activation_placement,
    dense_param_placement,
    depth_scaled_std,
    make_ffn_config,
    make_gqa_config,
    norm_config,
    parallelize_llama,
    pipeline_llm,
    spmd,
)
from muloco.model.architectures.paper_llama.flavors import NORM_EPS, ROPE_THETA, PaperLlama
from muloco.model.decoder import Draw, Head, MulocoDecoder, attention, drawn, parallelized


class PostNormBlock(Llama3TransformerBlock):
    """A Llama block with a second RMSNorm behind attention and behind the feed-forward."""

    @dataclass(kw_only=True, slots=True)
    class Config(Llama3TransformerBlock.Config):
        post_attention_norm: RMSNorm.Config
        post_ffn_norm: RMSNorm.Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.post_attention_norm = config.post_attention_norm.build()
        self.post_ffn_norm = config.post_ffn_norm.build()

    def forward(self, x, attention_masks, positions=None):
        """x: [B, L, width]; attention_masks: of the model's attention; positions: int64 [B, L]."""
        attended = self.attention(self.attention_norm(x), attention_masks, positions)
        x = x + self.post_attention_norm(attended)
        return x + self.post_ffn_norm(self.feed_forward(self.ffn_norm(x)))


class MulocoLlama(MulocoDecoder, Llama3Model):
    """The paper's model: a stack of `PostNormBlock`s."""

    @dataclass(kw_only=True, slots=True)
    class Config(Llama3Model.Config):
        autocast: bool = False
        """See `MulocoDecoder`."""

        def update_from_config(self, *, config, **kwargs) -> None:
            """Takes over what the trainer's config says: checks, sequence length, layouts under tensor parallelism."""
            # Not super(): a slots dataclass is another class than the one that super() would look for
            Llama3Model.Config.update_from_config(self, config=config, **kwargs)
            for layer in self.layers:
                _divide_norms(layer, sequence_parallel=config.parallelism.enable_sequence_parallel)


def spec(flavor: PaperLlama, *, seq_len: int, dense: bool, autocast: bool) -> ModelSpec:
    """torchtitan's specification of a flavor; the arguments are those of `muloco.model.spec`."""
    head_std = flavor.width**-0.5
    inner = attention(dense=dense)
    model = MulocoLlama.Config(
        autocast=autocast,
        dim=flavor.width,
        vocab_size=flavor.vocabulary,
        tok_embeddings=Embedding.Config(
            num_embeddings=flavor.vocabulary,
            embedding_dim=flavor.width,
            param_init=_init(nn.init.normal_, std=1.0),
        ),
        layers=[_block(flavor, layer, seq_len, inner) for layer in range(flavor.layers)],
        norm=_norm(flavor.width),
        lm_head=Head.Config(
            autocast=autocast,
            in_features=flavor.width,
            out_features=flavor.vocabulary,
            param_init=_init(nn.init.trunc_normal_, std=head_std, a=-3 * head_std, b=3 * head_std),
        ),
    )
    return ModelSpec(
        name="muloco",
        flavor=flavor.name,
        model=model,
        parallelize_fn=parallelized(parallelize_llama),
        pipelining_fn=pipeline_llm,
        post_optimizer_build_fn=None,
        state_dict_adapter=None,
    )


def _block(flavor: PaperLlama, layer: int, seq_len: int, inner: FlexAttention.Config) -> PostNormBlock.Config:
    narrow = _init(nn.init.trunc_normal_, std=0.02)
    narrower_with_depth = _init(nn.init.trunc_normal_, std=depth_scaled_std(0.02, layer))
    return PostNormBlock.Config(
        attention_norm=_norm(flavor.width),
        post_attention_norm=_norm(flavor.width),
        ffn_norm=_norm(flavor.width),
        post_ffn_norm=_norm(flavor.width),
        attention=make_gqa_config(
            dim=flavor.width,
            n_heads=flavor.heads,
            wqkv_param_init=narrow,
            wo_param_init=narrower_with_depth,
            inner_attention=inner,
            qk_norm=_norm(flavor.head_width),
            rope=ComplexRoPE.Config(dim=flavor.head_width, max_seq_len=seq_len, theta=ROPE_THETA),
        ),
        feed_forward=make_ffn_config(
            dim=flavor.width,
            hidden_dim=flavor.feed_forward_width,
            w1_param_init=narrow,
            w2w3_param_init=narrower_with_depth,
        ),
    )


def _divide_norms(layer: PostNormBlock.Config, *, sequence_parallel: bool) -> None:
    """Says how tensor parallelism divides the norms that torchtitan's Llama does not have.

    The post-norms see tokens as the other norms do; the norms of queries and keys see whole heads of some of the ranks.
    """
    layer.post_attention_norm.sharding_config = norm_config(enable_sp=sequence_parallel)
    layer.post_ffn_norm.sharding_config = norm_config(enable_sp=sequence_parallel)
    by_head = dense_activation_placement(tp=spmd.S(2))  # of [B, L, heads, width of a head]
    layer.attention.qk_norm.sharding_config = ShardingConfig(
        state_shardings={"weight": dense_param_placement(tp=spmd.R)},
        in_src_shardings={"input": by_head},
        out_src_shardings=by_head,
    )


def _norm(width: int) -> RMSNorm.Config:
    return RMSNorm.Config(normalized_shape=width, eps=NORM_EPS, param_init={"weight": nn.init.ones_})


def _init(function: Callable[..., object], **kwargs: float) -> dict[str, Draw]:
    return {"weight": drawn(function, **kwargs)}
