"""The model as Hugging Face knows it: its weights' names and layouts, both ways, and its config.json.

The architecture of transformers that is the same function is Gemma3ForCausalLM (norms before and after, norms of
queries and keys, SwiGLU as `silu`). What differs is how it writes things down:

- its norms multiply by 1 + weight, its embedding by sqrt(width);
- it turns the first half of a head against the second (ours turns neighbours), so the rows of queries and keys, and
  their norms, come in another order.

Pure functions of names and tensors; transformers is not needed, nor is torch for the names.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muloco.model.flavors import NORM_EPS, ROPE_THETA, Flavor

if TYPE_CHECKING:
    from torch import Tensor

Change = Callable[["Tensor", Flavor], "Tensor"]


def _same(tensor: "Tensor", size: Flavor) -> "Tensor":
    return tensor


def _halves(tensor: "Tensor", size: Flavor) -> "Tensor":
    """Of each head the even rows first, then the odd ones."""
    return tensor.unflatten(0, (-1, size.head_width // 2, 2)).transpose(1, 2).flatten(0, 2)


def _neighbours(tensor: "Tensor", size: Flavor) -> "Tensor":
    return tensor.unflatten(0, (-1, 2, size.head_width // 2)).transpose(1, 2).flatten(0, 2)


@dataclass(frozen=True)
class _Kind:
    """How a tensor is changed on its way out and back."""

    out: Change
    back: Change


_MATRIX = _Kind(_same, _same)
_NORM = _Kind(lambda tensor, size: tensor - 1, lambda tensor, size: tensor + 1)
_EMBEDDING = _Kind(lambda tensor, size: tensor / size.width**0.5, lambda tensor, size: tensor * size.width**0.5)
_TURNED = _Kind(_halves, _neighbours)
_TURNED_NORM = _Kind(lambda tensor, size: _halves(tensor, size) - 1, lambda tensor, size: _neighbours(tensor, size) + 1)

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


def names(size: Flavor) -> dict[str, str]:
    """Hugging Face's name of every parameter of a flavor, by ours, in our order of layers."""
    found = {ours: theirs for ours, (theirs, _) in _OUTSIDE.items()}
    for layer in range(size.layers):
        for ours, (theirs, _) in _OF_LAYER.items():
            found[f"layers.{layer}.{ours}"] = f"model.layers.{layer}.{theirs}"
    return found


def to_huggingface(name: str, tensor: "Tensor", size: Flavor) -> "Tensor":
    """A parameter as Hugging Face has it under `names(size)[name]`.

    Args:
        name: ours.
        tensor: whole and plain, any dtype; it is not changed, but the result may share its storage.

    Raises:
        KeyError: the model has no such parameter.
    """
    return _kind(name).out(tensor, size)


def from_huggingface(name: str, tensor: "Tensor", size: Flavor) -> "Tensor":
    """The inverse of `to_huggingface`, to rounding: `name` is ours as well."""
    return _kind(name).back(tensor, size)


def check_names(found: Iterable[str], wanted: Iterable[str], *, where: str) -> None:
    """Raises ValueError unless the two sets of names are equal: nothing may be left over or missing."""
    found, wanted = set(found), set(wanted)
    for names, what in ((wanted - found, "lacks"), (found - wanted, "has, which the model has not,")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"{where} {what} {min(names)}{more}")


def model_config(size: Flavor, *, seq_len: int, bos_id: int, eos_id: int) -> dict[str, Any]:
    """config.json of a flavor.

    Args:
        size: the flavor.
        seq_len: longest sequence that the model was trained on, in tokens.
        bos_id, eos_id: of its tokenizer.
    """
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "dtype": "float32",
        "vocab_size": size.vocabulary,
        "hidden_size": size.width,
        "intermediate_size": size.feed_forward_width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "head_dim": size.head_width,
        "query_pre_attn_scalar": size.head_width,
        "hidden_activation": "silu",
        "rms_norm_eps": NORM_EPS,
        "max_position_embeddings": seq_len,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": float(ROPE_THETA)},
            "sliding_attention": {"rope_type": "default", "rope_theta": float(ROPE_THETA)},
        },
        "layer_types": ["full_attention"] * size.layers,
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
