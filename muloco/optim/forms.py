"""How the parameters of a module are matrices, as far as the types of its modules tell."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from muloco.optim.fused import PerHead, Split


class Form(NamedTuple):
    """How a parameter is a matrix or several, in the options of a group."""

    layout: str | None = None
    split: Split = None
    per_head: PerHead = None


def forms(model: nn.Module) -> dict[int, Form]:
    """Returns the forms of parameters that are not simply a matrix [out, in], by id: of convolutions without groups,
    transformers' Conv1D, stacks of experts, and the fused projections of torch, torchtitan and transformers' experts.
    """
    found: dict[int, Form] = {}
    module: Any  # of types that are known by their names
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == 1:
            found[id(module.weight)] = Form("flatten")
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            found[id(module.in_proj_weight)] = Form(split=(module.embed_dim,) * 3)
        elif _is_a(module, "Conv1D") and _is_matrix(module, getattr(module, "nf", None)):
            found[id(module.weight)] = Form("transposed")
        elif _is_a(module, "FusedQKVLinear"):  # torchtitan's: the query heads of a key, the key and the value, in turn
            head = module.head_dim
            found[id(module.wqkv.weight)] = Form(split=(module.heads_per_kv * head, head, head))
        elif _is_a(module, "GptOssGroupedExperts"):  # torchtitan's: gate and up in turn
            found[id(module.mlp1_weight_EGD)] = Form("stacked", split=(1, 1))
        else:
            found |= _of_experts(module)
    return found


def _of_experts(module: nn.Module) -> dict[int, Form]:
    """Experts as transformers stores them: `gate_up_proj` and `down_proj`, whose sizes tell whether they are [experts,
    out, in] or [experts, in, out]. Gate and up are one after the other unless the module says that they are not."""
    up, down = (getattr(module, name, None) for name in ("gate_up_proj", "down_proj"))
    if not (isinstance(up, Tensor) and isinstance(down, Tensor) and up.ndim == down.ndim == 3):
        return {}
    is_transposed = up.shape[2] == 2 * down.shape[1] and up.shape[1] == down.shape[2]
    outputs = up.shape[2 if is_transposed else 1]
    if outputs % 2:
        return {}
    layout = "stacked_transposed" if is_transposed else "stacked"
    split = (outputs // 2,) * 2 if getattr(module, "is_concatenated", True) else (1, 1)
    return {id(up): Form(layout, split), id(down): Form(layout)}


def _is_a(module: nn.Module, name: str) -> bool:
    """Whether a class of this name is among those of a module; does not import it."""
    return any(kind.__name__ == name for kind in type(module).__mro__)


def _is_matrix(module: nn.Module, outputs: int | None) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2 and weight.shape[1] == outputs
