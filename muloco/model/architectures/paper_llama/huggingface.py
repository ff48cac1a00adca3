"""The paper's Llama as Hugging Face knows it: its weights' names and layouts, both ways, and its config.json.

The architecture of transformers that is the same function is Gemma3ForCausalLM (norms before and after, norms of
queries and keys, SwiGLU as `silu`). Only the form of its weights differs:

- its norms multiply by 1 + weight, its embedding by sqrt(width);
- its rotary embedding rotates the first half of a head against the second (the one here rotates neighbours), so the
  rows of queries and keys, and their norms, come in another order.

Pure functions of names and tensors; transformers is not needed, nor is torch for the names.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from muloco.model.architecture import OneToOne
from muloco.model.architectures.paper_llama.flavors import NORM_EPS, ROPE_THETA, PaperLlama

if TYPE_CHECKING:
    from torch import Tensor

Change = Callable[["Tensor", PaperLlama], "Tensor"]


def _same(tensor: "Tensor", flavor: PaperLlama) -> "Tensor":
    return tensor


def _halves(tensor: "Tensor", flavor: PaperLlama) -> "Tensor":
    """Reorders the rows of each head: the even ones first, then the odd ones."""
    return tensor.unflatten(0, (-1, flavor.head_width // 2, 2)).transpose(1, 2).flatten(0, 2)


def _neighbours(tensor: "Tensor", flavor: PaperLlama) -> "Tensor":
    return tensor.unflatten(0, (-1, 2, flavor.head_width // 2)).transpose(1, 2).flatten(0, 2)


class _Kind(NamedTuple):
    """How a tensor is changed on its way out and back."""

    out: Change
    back: Change


_MATRIX = _Kind(_same, _same)
_NORM = _Kind(lambda tensor, flavor: tensor - 1, lambda tensor, flavor: tensor + 1)
_EMBEDDING = _Kind(lambda tensor, flavor: tensor / flavor.width**0.5, lambda tensor, flavor: tensor * flavor.width**0.5)
_TURNED = _Kind(_halves, _neighbours)
_TURNED_NORM = _Kind(
    lambda tensor, flavor: _halves(tensor, flavor) - 1, lambda tensor, flavor: _neighbours(tensor, flavor) + 1
)

_OUTSIDE = {
    "tok_embeddings.weight": ("model.embed_tokens.weight", _EMBEDDING),
    "norm.weight": ("model.norm.weight", _NORM),
    "lm_head.weight": ("lm_head.weight", _MATRIX),
}
_OF_LAYER = {
    "attention.qkv_linear.wq.weight": ("self_attn.q_proj.weight", _TURNED),
    "attention.qkv_linear.wk.weight": ("self_attn.k_proj.weight", _TURNED),
    "attention.qkv_linear.wv.weight": ("self_attn.v_proj.weight", _MATRIX),
    "attention.wo.weight": ("self_attn.o_proj.weight", _MATRIX),
    "attention.q_norm.weight": ("self_attn.q_norm.weight", _TURNED_NORM),
    "attention.k_norm.weight": ("self_attn.k_norm.weight", _TURNED_NORM),
    "feed_forward.w1.weight": ("mlp.gate_proj.weight", _MATRIX),
    "feed_forward.w3.weight": ("mlp.up_proj.weight", _MATRIX),
    "feed_forward.w2.weight": ("mlp.down_proj.weight", _MATRIX),
    "attention_norm.weight": ("input_layernorm.weight", _NORM),
    "post_attention_norm.weight": ("post_attention_layernorm.weight", _NORM),
    "ffn_norm.weight": ("pre_feedforward_layernorm.weight", _NORM),
    "post_ffn_norm.weight": ("post_feedforward_layernorm.weight", _NORM),
}


def _names(flavor: PaperLlama) -> dict[str, str]:
    names = {ours: theirs for ours, (theirs, _) in _OUTSIDE.items()}
    for layer in range(flavor.layers):
        for ours, (theirs, _) in _OF_LAYER.items():
            names[f"layers.{layer}.{ours}"] = f"model.layers.{layer}.{theirs}"
    return names


def _config(flavor: PaperLlama, *, seq_len: int, bos_id: int, eos_id: int) -> dict[str, Any]:
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "dtype": "float32",
        "vocab_size": flavor.vocabulary,
        "hidden_size": flavor.width,
        "intermediate_size": flavor.feed_forward_width,
        "num_hidden_layers": flavor.layers,
        "num_attention_heads": flavor.heads,
        "num_key_value_heads": flavor.heads,
        "head_dim": flavor.head_width,
        "query_pre_attn_scalar": flavor.head_width,
        "hidden_activation": "silu",
        "rms_norm_eps": NORM_EPS,
        "max_position_embeddings": seq_len,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": float(ROPE_THETA)},
            "sliding_attention": {"rope_type": "default", "rope_theta": float(ROPE_THETA)},
        },
        "layer_types": ["full_attention"] * flavor.layers,
        "sliding_window": seq_len,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
        "tie_word_embeddings": False,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": None,
        "use_cache": True,
    }


def _kind(name: str) -> _Kind:
    inside = re.fullmatch(r"layers\.\d+\.(.+)", name)
    return _OF_LAYER[inside[1]][1] if inside else _OUTSIDE[name][1]


FORM = OneToOne(
    names=_names,
    write=lambda name, tensor, flavor: _kind(name).out(tensor, flavor),
    read=lambda name, tensor, flavor: _kind(name).back(tensor, flavor),
    config=_config,
    description="A Llama with norms before and after attention and feed-forward, and on queries and keys",
    loading="Gemma3ForCausalLM, which is the same function",
    notes="""\
## Other software

Programs that support Gemma 3 may assume two of its usual settings: `gelu_pytorch_tanh` as the activation, and a
head tied to the embedding. This model has `silu`, and a head of its own, as its config.json says.

- transformers computes it exactly.
- vLLM refuses to load it: its Gemma 3 takes no activation but `gelu_pytorch_tanh`, and in older versions no head of its
  own.
- llama.cpp converts it without a complaint, and wrongly: its converter leaves out `lm_head.weight`, and its Gemma 3
  computes GELU.

Compare the logits of any other program with those of transformers before you use it.

""",
)
