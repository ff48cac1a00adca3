"""The paper's Llama, put together from torchtitan's modules (PAPER 2.1).

It is Llama 3 with an RMSNorm per head on queries and keys, and RMSNorm after as well as before attention and
feed-forward. Query, key and value are three matrices, so that Muon orthogonalizes each by itself.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from muloco import sharding
from muloco._torchtitan import (
    CompileConfig,
    ComplexRoPE,
    Embedding,
    FlexAttention,
    Linear,
    Llama3Model,
    Llama3TransformerBlock,
    ModelSpec,
    ParallelDims,
    RMSNorm,
    ShardingConfig,
    canonical_fqn,
    dense_activation_placement,
    dense_param_placement,
    depth_scaled_std,
    device_type,
    make_ffn_config,
    make_gqa_config,
    norm_config,
    parallelize_llama,
    spmd,
)
from muloco.model.attention import DenseDocumentAttention, document_mask
from muloco.model.flavors import NORM_EPS, ROPE_THETA, Flavor
from muloco.model.flavors import flavor as find_flavor


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


class Head(Linear):
    """The output head, which a chunked loss calls outside of the model's forward pass."""

    @dataclass(kw_only=True, slots=True)
    class Config(Linear.Config):
        autocast: bool = False
        """As in `MulocoLlama.Config`."""

    def __init__(self, config: Config):
        super().__init__(config)
        self._autocast = config.autocast

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (torch's name)
        """Returns logits [B, L, vocabulary] for input [B, L, width]."""
        if not self._autocast:
            return super().forward(input)
        with torch.autocast(device_type(), torch.bfloat16):
            return super().forward(input)


class MulocoLlama(Llama3Model):
    """The paper's model: a stack of `PostNormBlock`s, with dense masks where the attention is the CPU's."""

    @dataclass(kw_only=True, slots=True)
    class Config(Llama3Model.Config):
        autocast: bool = False
        """Whether matrix products and attention are computed in bf16 (`torch.autocast`), and the rest in the
        parameters' dtype."""

        def update_from_config(self, *, config, **kwargs) -> None:
            """Takes over what the trainer's config says: checks, sequence length, layouts under tensor parallelism."""
            # Not super(): a slots dataclass is another class than the one that super() would look for
            Llama3Model.Config.update_from_config(self, config=config, **kwargs)
            for layer in self.layers:
                _divide_norms(layer, sequence_parallel=config.parallelism.enable_sequence_parallel)

    def forward(self, *args, **kwargs):
        """The same as torchtitan's decoder: int64 [B, L] to logits [B, L, vocabulary]."""
        if not self.config.autocast:
            return super().forward(*args, **kwargs)
        with torch.autocast(device_type(), torch.bfloat16):
            return super().forward(*args, **kwargs)

    def get_attention_masks(self, positions: torch.Tensor):
        if isinstance(self.config.first_attention.inner_attention, DenseDocumentAttention.Config):
            return document_mask(positions)
        return super().get_attention_masks(positions)

    def named_parameters(self, *args, **kwargs):
        """As in any module, but for the segments that activation checkpointing puts into the names of layers: who goes
        by names, be it optimizer, outer loop or checkpoint, need not know of it."""
        for name, parameter in super().named_parameters(*args, **kwargs):
            yield canonical_fqn(name), parameter


def llama_config(flavor: str, *, seq_len: int, dense: bool = False, autocast: bool = False) -> MulocoLlama.Config:
    """torchtitan's config of a flavor; `seq_len` is the longest sequence in tokens. `dense`: attention takes dense
    masks on every device, not on the CPU alone. `autocast`: see `MulocoLlama.Config`."""
    size = find_flavor(flavor)
    dense = dense or device_type() == "cpu"
    attention = DenseDocumentAttention if dense else FlexAttention
    head_std = size.width**-0.5
    return MulocoLlama.Config(
        autocast=autocast,
        dim=size.width,
        vocab_size=size.vocabulary,
        tok_embeddings=Embedding.Config(
            num_embeddings=size.vocabulary, embedding_dim=size.width, param_init=_init(nn.init.normal_, std=1.0)
        ),
        layers=[_block(size, layer, seq_len, attention) for layer in range(size.layers)],
        norm=_norm(size.width),
        lm_head=Head.Config(
            autocast=autocast,
            in_features=size.width,
            out_features=size.vocabulary,
            param_init=_init(nn.init.trunc_normal_, std=head_std, a=-3 * head_std, b=3 * head_std),
        ),
    )


def model_spec(flavor: str, *, seq_len: int, autocast: bool = False) -> ModelSpec:
    """torchtitan's specification of a flavor for its trainer; the arguments are those of `llama_config`."""
    return ModelSpec(
        name="muloco",
        flavor=flavor,
        model=llama_config(flavor, seq_len=seq_len, autocast=autocast),
        parallelize_fn=_parallelize,
        pipelining_fn=None,
        post_optimizer_build_fn=None,
        state_dict_adapter=None,
    )


def _block(size: Flavor, layer: int, seq_len: int, attention: type[FlexAttention]) -> PostNormBlock.Config:
    narrow = _init(nn.init.trunc_normal_, std=0.02)
    narrower_with_depth = _init(nn.init.trunc_normal_, std=depth_scaled_std(0.02, layer))
    return PostNormBlock.Config(
        attention_norm=_norm(size.width),
        post_attention_norm=_norm(size.width),
        ffn_norm=_norm(size.width),
        post_ffn_norm=_norm(size.width),
        attention=make_gqa_config(
            dim=size.width,
            n_heads=size.heads,
            wqkv_param_init=narrow,
            wo_param_init=narrower_with_depth,
            inner_attention=attention.Config(),
            qk_norm=_norm(size.head_width),
            rope=ComplexRoPE.Config(dim=size.head_width, max_seq_len=seq_len, theta=ROPE_THETA),
        ),
        feed_forward=make_ffn_config(
            dim=size.width,
            hidden_dim=size.feed_forward_width,
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


def _init(function: Callable[..., object], **kwargs: float) -> dict[str, Callable[[torch.Tensor], None]]:
    """An initialization that draws the whole tensor on every rank and keeps the local part.

    A model is then the same for every way of sharding it. torch's own way is not: on a CPU mesh the shards of a DTensor
    are drawn with the same numbers.
    """
    draw = partial(function, **kwargs)

    def weight(parameter: torch.Tensor) -> None:
        if not isinstance(parameter, DTensor):
            draw(parameter)
            return
        full = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
        draw(full)
        sharding.local(parameter).copy_(sharding.shard_like(full, parameter))

    return {"weight": weight}


def _parallelize(
    model: MulocoLlama, *, parallel_dims: ParallelDims, compile_config: CompileConfig, **kwargs
) -> nn.Module:
    model = parallelize_llama(model, parallel_dims=parallel_dims, compile_config=compile_config, **kwargs)
    if model.config.autocast:  # norms of bf16 activations with fp32 weights are intended
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
    if parallel_dims.tp_enabled and compile_config.enable:
        # The embedding hands on a tensor that is still on its way between ranks. torch 2.13's compile cache takes what
        # it compiled for such a tensor for any other one, and fails in the next layer; a copy has arrived.
        model.tok_embeddings.register_forward_hook(lambda module, args, out: out.clone())
    if device_type() == "cpu":
        for module in model.modules():
            if isinstance(module, FSDPModule):  # gloo has no pre-multiplied sum, which torchtitan's averaging asks for
                module.set_force_sum_reduction_for_comms(True)
    return model
