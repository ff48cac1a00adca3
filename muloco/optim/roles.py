"""The roles of a model's parameters and their rules: Muon for hidden matrices, AdamW for everything else."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from muloco.optim.layouts import matrix_shape
from muloco.optim.rules import RULES

ALGORITHMS = {"matrix": "muon", "embedding": "adamw", "head": "adamw", "scalar": "adamw", "other": "adamw"}
"""The rule of each role. `scalar` has fewer than two dimensions: norms and biases. `other` has more and is neither
a matrix nor an ungrouped convolution: learned positions, grouped and transposed convolutions."""

UNDECAYED = ("scalar",)
"""Roles without weight decay, unless their group sets it."""

EMBEDDING = re.compile(r"(^|_)emb|^(wte|wpe|shared)$")
HEAD = re.compile(r"^heads?(_|$)|_heads?$|^(output|output_layer|unembed|embed_out|classifier|score|logits)$")


def group_by_role(params: Any) -> Any:
    """Parameter groups, one for each role and layout, of a module or of (name, parameter) pairs; anything else is
    returned as it is.

    An embedding is the weight of an nn.Embedding, or its name or its module's looks like one (`EMBEDDING`). A head is a
    matrix outside the numbered layers that has a head's name or module (`HEAD`) or the shape of an embedding. A tensor
    that is both, tied, is an embedding.

    A module tells more than names, which may belong to a part of a model: its heads are also found by what `_heads`
    says; convolutions without groups are matrices of flattened kernels; matrices of transformers' Conv1D are [in, out].
    """
    tables: set[int] = set()
    layouts: dict[int, str] = {}
    model = params if isinstance(params, nn.Module) else None
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
    if model is not None and not alone:
        heads = _heads(model, matrices, layouts, known="head" in roles.values())
        if len(heads) < len(matrices) or tables:
            roles |= dict.fromkeys(heads, "head")
    groups: dict[tuple[str, str | None], list[tuple[str, Tensor]]] = {}
    for role in ALGORITHMS:
        for name, param in params:
            if roles[id(param)] == role:
                layout = layouts.get(id(param)) if role == "matrix" else None
                groups.setdefault((role, layout), []).append((name, param))
    return [{"params": members, "role": role, "layout": layout} for (role, layout), members in groups.items()]


def describe_groups(groups: Iterable[dict[str, Any]]) -> str:
    """Describes which parameter gets which rule: a line for each group, and one for each kind of layer in it."""
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
        alike: dict[tuple[str, str], list[str]] = {}
        for name, param in named(group):
            shape = f"{list(param.shape)}"
            if RULES[group["algorithm"]].takes == "matrices" and group["layout"] != "stacked":
                matrix = list(matrix_shape(param.shape, group["layout"]))
                shape += f" as {matrix}" if matrix != list(param.shape) else ""
            alike.setdefault((_starred(name) if name else "without name", shape), []).append(name or "without name")
        for (starred, shape), names in alike.items():
            lines.append(f"    {names[0]} {shape}" if len(names) == 1 else f"    {starred} {shape} x {len(names)}")
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
    named = any(map(HEAD.search, _last_names(name)))
    if not _in_layers(name) and (named or param.shape in shapes):
        return "head"
    return "matrix"


def _heads(model: nn.Module, matrices: list[tuple[str, Tensor]], layouts: dict[int, str], *, known: bool) -> set[int]:
    """Ids of the matrices of a model, outside its numbered layers, that are heads although their own names do not tell.

    The first of these rules that finds some decides; the last two are not asked if a name has told already (`known`):

    1. the last matrix of an nn.Sequential that is named like a head (`classifier.6`), and a convolution named like one;
    2. the last matrix of the model if it is named `fc`;
    3. the last matrix of the model if no other takes as many inputs as it has outputs, and those directly before it
       that take the same number of inputs and of which this is true as well: several heads on the same features. None
       of them is one of several like it in numbered layers.

    The first convolution of a model is never a head: it takes the model's inputs.
    """
    first = next((id(param) for _, param in matrices if layouts.get(id(param)) == "flatten"), None)
    heads = set()
    for path, module in model.named_modules():
        if _in_layers(path) or not HEAD.search(path.rpartition(".")[2]):
            continue
        if isinstance(module, nn.Sequential | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            of_module = {id(param) for param in module.parameters()}
            inside = [id(param) for _, param in matrices if id(param) in of_module]
            heads |= set(inside[-1:]) - {first}
    if heads or known or not matrices:
        return heads
    name, last = matrices[-1]
    if id(last) == first:
        return set()
    if _last_names(name)[0] == "fc" and not _in_layers(name):
        return {id(last)}
    kinds = Counter((_starred(other), param.shape) for other, param in matrices)
    sizes = [_out_and_in(param, layouts) for _, param in matrices]
    for index in reversed(range(len(matrices))):
        name, param = matrices[index]
        inputs = {taken for other, (_, taken) in enumerate(sizes) if other != index}
        alone = kinds[_starred(name), param.shape] == 1
        if id(param) == first or not alone or sizes[index][0] in inputs or sizes[index][1] != sizes[-1][1]:
            break
        heads.add(id(param))
    return heads


def _out_and_in(param: Tensor, layouts: dict[int, str]) -> tuple[int, int]:
    """Features that a matrix makes and takes; of a convolution, channels."""
    layout = layouts.get(id(param))
    return (param.shape[0], param.shape[1]) if layout == "flatten" else matrix_shape(param.shape, layout)


def _in_layers(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))


def _starred(name: str) -> str:
    """A name without the number of its layer; the numbers of a plain nn.Sequential (`2.weight`) are its names."""
    return name if re.fullmatch(r"\d+\.\w+", name) else re.sub(r"\b\d+\b", "*", name)


def _is_transformers_conv1d(module: nn.Module) -> bool:
    """Whether a module is transformers' Conv1D, whose weight is [in, out]; does not import transformers."""
    if not any(kind.__name__ == "Conv1D" for kind in type(module).__mro__):
        return False
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2 and weight.shape[1] == getattr(module, "nf", None)


def _last_names(name: str) -> list[str]:
    """A parameter's module and its own name in it: `lm_head` and `weight` of `model.lm_head.weight`."""
    return name.split(".")[-2:]
