"""The common additions of all architectures to torchtitan's decoders: precision, attention masks, names and
initialization."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.attention.flex_attention import and_masks, create_mask

from muloco import sharding
from muloco._torchtitan import (
    CompileConfig,
    Decoder,
    FlexAttention,
    Linear,
    ParallelDims,
    canonical_fqn,
    device_type,
)
from muloco.model.attention import DenseDocumentAttention, document_mask

Draw = Callable[[torch.Tensor], object]
"""Draws the values of a parameter in place."""


def attention(*, dense: bool) -> FlexAttention.Config:
    """Returns the attention of a model: with dense masks if they are asked for, and always on a CPU."""
    return (DenseDocumentAttention if dense or device_type() == "cpu" else FlexAttention).Config()


class Head(Linear):
    """The output head, which a chunked loss calls outside of the model's forward pass."""

    @dataclass(kw_only=True, slots=True)
    class Config(Linear.Config):
        autocast: bool = False
        """As in the config of the model."""

    def __init__(self, config: Config):
        super().__init__(config)
        self._autocast = config.autocast

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (torch's name)
        """Returns logits [B, L, vocabulary] for input [B, L, width]."""
        if not self._autocast:
            return super().forward(input)
        with torch.autocast(device_type(), torch.bfloat16):
            return super().forward(input)


class MulocoDecoder(nn.Module):
    """A base class that comes before torchtitan's: `class MulocoLlama(MulocoDecoder, Llama3Model)`.

    The config of the model has a field `autocast`: whether matrix products and attention are computed in bf16
    (`torch.autocast`), and the rest in the dtype of the parameters. Its head is a `Head` with the same value.
    """

    if TYPE_CHECKING:
        config: Any

    def forward(self, *args, **kwargs):
        """Maps int64 [B, L] to logits [B, L, vocabulary], as torchtitan's decoder does."""
        if not self.config.autocast:
            return super().forward(*args, **kwargs)
        with torch.autocast(device_type(), torch.bfloat16):
            return super().forward(*args, **kwargs)

    @property
    def has_one_mask(self) -> bool:
        """Whether all layers take the same mask, by which a token sees all earlier ones of its document."""
        return type(self).get_attention_masks is Decoder.get_attention_masks  # type: ignore[attr-defined]

    def _create_flex_attention_mask_for_document(self, positions: torch.Tensor, attn_config: Any):
        """The mask that `get_attention_masks` returns for `positions` (int64 [B, L], 0 at the start of each document):
        dense if the model's attention is."""
        if isinstance(attn_config.inner_attention, DenseDocumentAttention.Config):
            return document_mask(positions)
        return super()._create_flex_attention_mask_for_document(positions, attn_config)  # type: ignore[misc]

    def _create_flex_attention_mask(self, positions: torch.Tensor, attn_config: Any, mask_mods: Sequence[Callable]):
        """Returns a mask of any pattern for models whose layers take different masks; see `get_attention_masks`."""
        if isinstance(attn_config.inner_attention, DenseDocumentAttention.Config):
            rows, length = positions.shape
            return create_mask(and_masks(*mask_mods), rows, None, length, length, device=str(positions.device))
        return super()._create_flex_attention_mask(positions, attn_config, mask_mods)  # type: ignore[misc]

    def named_parameters(self, *args, **kwargs):
        """As in any module, but without the segments that activation checkpointing puts into the names of layers. The
        optimizer, the outer loop and checkpoints go by these names."""
        for name, parameter in super().named_parameters(*args, **kwargs):
            yield canonical_fqn(name), parameter


def drawn(function: Callable[..., object], **kwargs: float) -> Draw:
    """An initialization that draws the whole tensor on every rank and keeps the local part.

    A model is then the same for every way of sharding it. torch's own way is not: on a CPU mesh the shards of a DTensor
    are drawn with the same numbers.
    """
    draw = partial(function, **kwargs)

    def values(parameter: torch.Tensor) -> None:
        if not isinstance(parameter, DTensor):
            draw(parameter)
            return
        full = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
        draw(full)
        sharding.local(parameter).copy_(sharding.shard_like(full, parameter))

    return values


def parallelized(parallelize: Callable[..., Any]) -> Callable[..., nn.Module]:
    """torchtitan's function that parallelizes an architecture, with what muloco needs after it."""

    def function(model: Any, *, parallel_dims: ParallelDims, compile_config: CompileConfig, **kwargs: Any) -> nn.Module:
        model = parallelize(model, parallel_dims=parallel_dims, compile_config=compile_config, **kwargs)
        if model.config.autocast:  # norms of bf16 activations with fp32 weights are intended
            warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
        if parallel_dims.tp_enabled and compile_config.enable and model.tok_embeddings is not None:
            # The embedding returns a tensor that is still on its way between ranks. torch 2.13's compile cache uses
            # what it compiled for such a tensor for any other one, and fails in the next layer; a copy has arrived.
            model.tok_embeddings.register_forward_hook(lambda module, args, out: out.clone())
        if device_type() == "cpu":
            for module in model.modules():
                if isinstance(module, FSDPModule):  # gloo lacks the pre-multiplied sum that torchtitan's average uses
                    module.set_force_sum_reduction_for_comms(True)
        return model

    return function
