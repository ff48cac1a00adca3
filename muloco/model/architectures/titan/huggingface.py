"""The form of torchtitan's models in transformers. torchtitan's own adapter converts the weights; config.json is
written here, by kind of model.

A model is converted as a whole in host memory: tensors do not correspond one to one, as experts are stacked here.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from muloco.errors import UserError
from muloco.model.architecture import NO_PLACE, HuggingFaceForm
from muloco.model.architectures.titan.flavors import TitanFlavor

if TYPE_CHECKING:
    from torch import Tensor, nn

    from muloco._torchtitan import Decoder
    from muloco.model.weights_folder import WeightsFolder

DECISIVE = (
    "hidden_act",
    "rms_norm_eps",
    "rope_parameters",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "tie_word_embeddings",
    "num_experts_per_tok",
    "norm_topk_prob",
    "attention_bias",
)


@dataclass(frozen=True, kw_only=True)
class AdapterForm(HuggingFaceForm):
    """The form that torchtitan's state dict adapter of a model gives it."""

    decisive: tuple[str, ...] = DECISIVE

    def shapes(self, flavor: TitanFlavor) -> Mapping[str, tuple[int, ...]]:
        import torch

        model, adapter = _model_and_adapter(flavor)
        weights = {name: torch.empty_like(tensor, device="meta") for name, tensor in model.state_dict().items()}
        return {name: tuple(tensor.shape) for name, tensor in adapter.to_hf(weights).items()}

    def written(self, weights: Mapping[str, "Tensor"], flavor: TitanFlavor) -> Iterator[tuple[str, "Tensor"]]:
        model, adapter = _model_and_adapter(flavor)
        model.load_state_dict(weights, strict=False, assign=True)
        state = {name: tensor for name, tensor in model.state_dict().items() if not tensor.is_meta}
        converted = adapter.to_hf(dict(state))
        for name in sorted(state.keys() - adapter.from_hf(dict(converted)).keys()):
            if state[name].any():
                raise UserError(NO_PLACE.format(flavor=flavor.alias, name=name))
        yield from converted.items()

    def load(self, folder: "WeightsFolder", parts: Iterable["nn.Module"], flavor: TitanFlavor) -> None:
        import torch

        from muloco import sharding
        from muloco.model.buffers import averaged_buffers

        model, adapter = _model_and_adapter(flavor)
        theirs = {name: folder.read(name).float() for name in self.shapes(flavor)}
        model.load_state_dict(adapter.from_hf(theirs), strict=False, assign=True)
        whole = {**dict(model.named_buffers()), **dict(model.named_parameters())}
        with torch.no_grad():
            for part in parts:
                targets = {**dict(part.named_parameters()), **averaged_buffers([part], flavor.record)}
                for name, target in targets.items():
                    if not (tensor := whole[name]).is_meta:  # not a buffer that the folder does not have
                        own = sharding.local(target)
                        own.copy_(sharding.shard_like(tensor.detach().to(own.device), target))


def _model_and_adapter(flavor: TitanFlavor) -> tuple["nn.Module", Any]:
    """Returns a model on the device `meta`, and the adapter for its state dict."""
    import torch

    from muloco.model.architectures.titan.network import text_config

    theirs = flavor.theirs()
    config = text_config(theirs)
    with torch.device("meta"):
        model = config.build()
    return model, theirs.state_dict_adapter(config, None)


def _config(kind: Callable[["Decoder.Config"], dict[str, Any]], flavor: TitanFlavor, **training: Any) -> dict[str, Any]:
    """config.json of transformers, by the config that torchtitan registers for the flavor."""
    theirs = flavor.theirs().model
    attention = theirs.first_attention
    head_width = attention.head_dim or attention.dim // attention.n_heads
    return {
        "dtype": "float32",
        "vocab_size": theirs.vocab_size,
        "hidden_size": theirs.dim,
        "num_hidden_layers": len(theirs.layers),
        "num_attention_heads": attention.n_heads,
        "num_key_value_heads": attention.n_kv_heads or attention.n_heads,
        "head_dim": head_width,
        "hidden_act": "silu",
        "rms_norm_eps": theirs.norm.eps,
        "rope_theta": float(attention.rope.theta),
        "max_position_embeddings": flavor.longest,  # what it can do, not what it was trained on here
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": theirs.enable_weight_tying,
        "bos_token_id": training["bos_id"],
        "eos_token_id": training["eos_id"],
        "use_cache": True,
        **kind(theirs),
    }


def _llama(theirs: "Decoder.Config") -> dict[str, Any]:
    rope = theirs.first_attention.rope
    scaling = None
    if rope.scaling == "llama":
        scaling = {
            "rope_type": "llama3",
            "factor": rope.scaling_factor,
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_max_position_embeddings,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "intermediate_size": theirs.layers[0].feed_forward.w1.out_features,
        "mlp_bias": False,
        "rope_scaling": scaling,
    }


def _qwen3(theirs: "Decoder.Config") -> dict[str, Any]:
    dense = [layer.feed_forward.w1.out_features for layer in theirs.layers if layer.feed_forward is not None]
    moes = [layer.moe for layer in theirs.layers if layer.moe is not None]
    if not moes:
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "intermediate_size": dense[0],
            "rope_scaling": None,
            "use_sliding_window": False,
            "sliding_window": None,
            "max_window_layers": len(theirs.layers),
        }
    router, experts = moes[0].router, moes[0].routed_experts.inner_experts
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "intermediate_size": dense[0] if dense else experts.hidden_dim,
        "moe_intermediate_size": experts.hidden_dim,
        "num_experts": router.num_experts,
        "num_experts_per_tok": router.top_k,
        "norm_topk_prob": router.route_norm,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [index for index, layer in enumerate(theirs.layers) if layer.moe is None],
        "router_aux_loss_coef": 0.0,
        "output_router_logits": False,
        "rope_scaling": None,
        "use_sliding_window": False,
        "sliding_window": None,
    }


_LOADING = "the class that its config.json names"
FORMS: dict[str, AdapterForm] = {
    "llama3": AdapterForm(config=partial(_config, _llama), description="A Llama 3", loading=_LOADING),
    "qwen3": AdapterForm(config=partial(_config, _qwen3), description="A Qwen3", loading=_LOADING),
}
"""The form of each of torchtitan's models that has one here, by its name."""
