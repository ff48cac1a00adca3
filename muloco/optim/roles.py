"""The roles of a model's parameters and their rules: Muon for hidden matrices, AdamW for everything else (PAPER
3.2)."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from muloco.optim.matrices import matrix_shape

__all__ = ["ALGORITHMS", "UNDECAYED", "account", "named", "sort"]

ALGORITHMS = {"matrix": "muon", "embedding": "adamw", "head": "adamw", "scalar": "adamw", "other": "adamw"}
"""The rule of each role. `scalar` has fewer than two dimensions: norms and biases. `other` has more and is neither
a matrix nor an ungrouped convolution: learned positions, grouped and transposed convolutions."""

UNDECAYED = ("scalar",)
"""Roles without weight decay, unless their group sets it."""

EMBEDDING = re.compile(r"(^|_)emb|^(wte|wpe|shared)$")
HEADS = {"lm_head", "head", "output", "output_layer", "unembed", "embed_out", "classifier", "score"}


def sort(params: Any) -> Any:
    """Parameter groups, one for each role and layout, of a module or of (name, parameter) pairs; anything else is
    returned as it is.

    An embedding is the weight of an nn.Embedding, or its name or its module's looks like one (`EMBEDDING`). A head is a
    matrix outside the numbered layers that has a head's name or module (`HEADS`) or the shape of an embedding. A tensor
    that is both, tied, is an embedding.

    A module tells more than names, which may belong to a part of a model: if none is the head by these rules, the last
    matrix is the head if no other matrix takes its outputs (`_last_is_head`); convolutions without groups are matrices
    of flattened kernels; matrices of transformers' Conv1D are [in, out].
    """
    tables: set[int] = set()
    layouts: dict[int, str] = {}
    whole = isinstance(params, nn.Module)
    if isinstance(params, nn.Module):
        for module in params.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                tables.add(id(module.weight))
            elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == 1:
                layouts[id(module.weight)] = "flatten"
            elif _is_transformers_conv1d(module):
                layouts[id(module.weight)] = "transposed"
        params = params.named_parameters()
    if isinstance(params, Tensor | dict):
        return params
    params = list(params)
    if not params or not all(isinstance(param, tuple) for param in params):
        return params
    tables |= {id(param) for name, param in params if any(map(EMBEDDING.search, _last_names(name)))}
    shapes = {param.shape for _, param in params if id(param) in tables}
    roles = {id(param): _role(name, param, tables, shapes, layouts) for name, param in params}
    matrices = [(name, param) for name, param in params if roles[id(param)] == "matrix"]
    alone = len(matrices) == 1 and not tables  # otherwise nothing would be left for Muon
    if whole and not alone and "head" not in roles.values() and _last_is_head(matrices, layouts):
        roles[id(matrices[-1][1])] = "head"
    found: dict[tuple[str, str | None], list[tuple[str, Tensor]]] = {}
    for role in ALGORITHMS:
        for name, param in params:
            if roles[id(param)] == role:
                found.setdefault((role, layouts.get(id(param)) if role == "matrix" else None), []).append((name, param))
    return [{"params": members, "role": role, "layout": layout} for (role, layout), members in found.items()]


def account(groups: Iterable[dict[str, Any]]) -> str:
    """Which parameter gets which rule: a line a group, and below it the parameters, alike ones in one line."""
    groups = list(groups)
    some_decay = any(group["weight_decay"] for group in groups)
    lines = []
    for group in groups:
        params = group["params"]
        role = group.get("role", "as its group says")
        scaled = f", lr times {group['lr_factor']:g}" if group["lr_factor"] != 1 else ""
        undecayed = ", no weight decay" if some_decay and not group["weight_decay"] else ""
        lines.append(
            f"{group['algorithm']} ({role}{scaled}{undecayed}): {len(params)} parameters, "
            f"{sum(p.numel() for p in params):,} elements"
        )
        alike: dict[str, int] = {}
        for name, param in named(group):
            called = re.sub(r"\b\d+\b", "*", name) if name else "without name"
            line = f"    {called} {list(param.shape)}"
            if group["algorithm"] == "muon" and group["layout"] != "stacked":
                shape = list(matrix_shape(param.shape, group["layout"]))
                line += f" as {shape}" if shape != list(param.shape) else ""
            alike[line] = alike.get(line, 0) + 1
        lines += [line + (f" x {count}" if count > 1 else "") for line, count in alike.items()]
    return "\n".join(lines)


def named(group: dict[str, Any]) -> Iterable[tuple[str | None, Tensor]]:
    """The parameters of a group with their names, or None."""
    names = group.get("param_names") or [None] * len(group["params"])
    return zip(names, group["params"], strict=True)


def _role(name: str, param: Tensor, tables: set[int], shapes: set, layouts: dict[int, str]) -> str:
    if param.ndim < 2:
        return "scalar"
    if id(param) in layouts and param.ndim > 2:
        return "matrix"
    if param.ndim > 2:
        return "other"
    if id(param) in tables:
        return "embedding"
    in_layers = any(part.isdigit() for part in name.split("."))
    if not in_layers and (HEADS.intersection(_last_names(name)) or param.shape in shapes):
        return "head"
    return "matrix"


def _last_is_head(matrices: list[tuple[str, Tensor]], layouts: dict[int, str]) -> bool:
    """Whether the last of these matrices turns hidden features into outputs: no other takes as many inputs as it has
    outputs, and it is not one of several like it in numbered layers."""
    if not matrices:
        return False
    (*others, (name, last)) = matrices
    kinds = Counter((re.sub(r"\b\d+\b", "*", other), param.shape) for other, param in matrices)
    inputs = set()
    for _, param in others:
        layout = layouts.get(id(param))
        inputs.add(param.shape[1] if layout == "flatten" else matrix_shape(param.shape, layout)[1])
    outputs = matrix_shape(last.shape, layouts.get(id(last)))[0]
    return kinds[re.sub(r"\b\d+\b", "*", name), last.shape] == 1 and outputs not in inputs


def _is_transformers_conv1d(module: nn.Module) -> bool:
    """Whether a module is transformers' Conv1D, whose weight is [in, out]; does not import transformers."""
    if not any(kind.__name__ == "Conv1D" for kind in type(module).__mro__):
        return False
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2 and weight.shape[1] == getattr(module, "nf", None)


def _last_names(name: str) -> list[str]:
    """A parameter's module and its own name in it: `lm_head` and `weight` of `model.lm_head.weight`."""
    return name.split(".")[-2:]
