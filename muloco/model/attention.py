"""Attention with document masks on the CPU, where FlexAttention has no backward pass."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from muloco._torchtitan import FlexAttention


def document_mask(positions: torch.Tensor) -> torch.Tensor:
    """Who may look at whom: the earlier tokens of the same document and oneself.

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

    @dataclass(kw_only=True, slots=True)
    class Config(FlexAttention.Config):
        pass

    def forward(self, q_BLNH, k_BLNH, v_BLNH, *, attention_masks, scale=None, enable_gqa=False, **kwargs):
        q, k, v = (tensor.transpose(1, 2) for tensor in (q_BLNH, k_BLNH, v_BLNH))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_masks, scale=scale, enable_gqa=enable_gqa)
        return out.transpose(1, 2)
