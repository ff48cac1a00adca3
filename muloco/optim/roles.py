"""Which parameter of a model gets which rule, and why: matrices Muon, everything else AdamW (PAPER 3.2)."""

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from muloco.optim.checks import named

ALGORITHMS = {"matrix": "muon", "embedding": "adamw", "head": "adamw", "other": "adamw"}
"""The rule of each role; `other` is whatever has not two dimensions: norms, biases, convolutions."""

EMBEDDING = re.compile(r"(^|_)emb|^(wte|wpe|shared)$")
HEADS = {"lm_head", "head", "output", "output_layer", "unembed", "embed_out", "classifier", "score"}


def sort(params: Any) -> Any:
    """Parameter groups, one a role, of a module or of (name, parameter) pairs; anything else is returned as it is.

    An embedding is the weight of an nn.Embedding, or its name or its module's looks like one (`EMBEDDING`). The head is
    a matrix outside the numbered layers that has a head's name or module (`HEADS`) or the shape of an embedding. A
    tensor that is both, tied, is an embedding.
    """
    tables: set[int] = set()
    if isinstance(params, nn.Module):
        modules = [module for module in params.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
        tables = {id(module.weight) for module in modules}
        params = params.named_parameters()
    if isinstance(params, Tensor | dict):
        return params
    params = list(params)
    if not params or not all(isinstance(param, tuple) for param in params):
        return params
    tables |= {id(param) for name, param in params if any(map(EMBEDDING.search, _last_names(name)))}
    shapes = {param.shape for _, param in params if id(param) in tables}
    by_role: dict[str, list[tuple[str, Tensor]]] = {role: [] for role in ALGORITHMS}
    for name, param in params:
        by_role[_role(name, param, tables, shapes)].append((name, param))
    return [
        {"params": members, "algorithm": ALGORITHMS[role], "role": role} for role, members in by_role.items() if members
    ]


def account(groups: Iterable[dict[str, Any]]) -> str:
    """Which parameter gets which rule: a line a group, and below it the parameters, alike ones in one line."""
    lines = []
    for group in groups:
        params = group["params"]
        role = group.get("role", "as its group says")
        scaled = f", lr times {group['lr_factor']:g}" if group["lr_factor"] != 1 else ""
        lines.append(
            f"{group['algorithm']} ({role}{scaled}): {len(params)} parameters, "
            f"{sum(p.numel() for p in params):,} elements"
        )
        alike: dict[str, int] = {}
        for name, param in named(group):
            called = re.sub(r"\b\d+\b", "*", name) if name else "without name"
            line = f"    {called} {list(param.shape)}"
            alike[line] = alike.get(line, 0) + 1
        lines += [line + (f" x {count}" if count > 1 else "") for line, count in alike.items()]
    return "\n".join(lines)


def _role(name: str, param: Tensor, tables: set[int], shapes: set) -> str:
    if param.ndim != 2:
        return "other"
    if id(param) in tables:
        return "embedding"
    in_layers = any(part.isdigit() for part in name.split("."))
    if not in_layers and (HEADS.intersection(_last_names(name)) or param.shape in shapes):
        return "head"
    return "matrix"


def _last_names(name: str) -> list[str]:
    """A parameter's module and its own name in it: `lm_head` and `weight` of `model.lm_head.weight`."""
    return name.split(".")[-2:]
