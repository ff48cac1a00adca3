"""Attention with dense masks: on the CPU, where FlexAttention has no backward pass, and of trained models."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask

from muloco._torchtitan import FlexAttention


def document_mask(positions: torch.Tensor) -> torch.Tensor:
    """The mask by which a token attends to itself and to the earlier tokens of its document.

    Args:
        positions: int64 [B, L], 0 at the start of each document.

    Returns:
        bool [B, 1, L, L], True where query (third axis) sees key (fourth).
    """
    document = torch.cumsum(positions == 0, dim=1)
    length = positions.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=positions.device).tril()
    return ((document[:, :, None] == document[:, None, :]) & causal).unsqueeze(1)


class DenseDocumentAttention(FlexAttention):
    """`F.scaled_dot_product_attention` with the dense mask of `document_mask`.

    It derives from FlexAttention because torchtitan's trainer builds masks for that class (and for varlen) alone.
    """

    past: tuple[torch.Tensor, ...] | None = None
    """Keys and values [B, heads, L, head width] of all earlier calls, which queries see as well; None: they are not
    kept. See `remembering`."""

    @dataclass(kw_only=True, slots=True)
    class Config(FlexAttention.Config):
        pass

    def forward(
        self, q_BLNH, k_BLNH, v_BLNH, *, attention_masks, scale=None, enable_gqa=False, out_transform=None, **kwargs
    ):
        q, k, v = (tensor.transpose(1, 2) for tensor in (q_BLNH, k_BLNH, v_BLNH))
        if self.past:
            k, v = (torch.cat(pair, dim=2) for pair in zip(self.past, (k, v), strict=True))
        if self.past is not None:
            self.past = k, v
        if out_transform is not None:
            return out_transform(*_with_normalizer(q, k, v, attention_masks, scale))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_masks, scale=scale, enable_gqa=enable_gqa)
        return out.transpose(1, 2)


def _with_normalizer(q, k, v, mask: torch.Tensor | None, scale: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention by its definition, for models that correct its result, as attention sinks do.

    Args:
        q, k, v: [B, heads, L, width]; keys and values may have fewer heads, which groups of queries share.
        mask: bool, of the shape of q k^T, or one that it broadcasts to. None: every query sees every key.
        scale: factor of q k^T; None: width ** -0.5.

    Returns:
        the result [B, L, heads, width], and the logarithm of the softmax's denominator, fp32 [B, L, heads].
    """
    k, v = (tensor.repeat_interleave(q.shape[1] // tensor.shape[1], dim=1) for tensor in (k, v))
    scores = (q @ k.mT).float() * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    out = scores.softmax(dim=-1).to(v.dtype) @ v
    return out.transpose(1, 2), scores.logsumexp(dim=-1).transpose(1, 2)


@contextlib.contextmanager
def remembering(model: nn.Module) -> Iterator[None]:
    """Within the context the model's dense attention remembers the tokens of every call: the next one goes on behind
    them, given their positions and masks [B, 1, new, all] (None: new tokens see all)."""
    layers = [module for module in model.modules() if isinstance(module, DenseDocumentAttention)]
    for layer in layers:
        layer.past = ()
    try:
        yield
    finally:
        for layer in layers:
            layer.past = None


def attention_mask(model: Any, sees: torch.Tensor):
    """Returns a mask of any pattern in the form that the model's attention takes.

    Args:
        model: `muloco.model.build`'s.
        sees: bool [B, L, L], True where a query (second axis) sees a key.
    """
    if isinstance(model.config.first_attention.inner_attention, DenseDocumentAttention.Config):
        return sees.unsqueeze(1)
    rows, length, _ = sees.shape
    return create_block_mask(lambda b, h, q, k: sees[b, q, k], rows, None, length, length, device=sees.device)
