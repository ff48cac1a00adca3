"""The roles of a model's parameters and their rules: Muon for hidden matrices, AdamW for everything else."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from muloco.optim.choices import ALGORITHMS, NOTHING, Choices, chosen_roles, matching, takes_matrices
from muloco.optim.forms import Form, forms
from muloco.optim.fused import held_matrices
from muloco.optim.layouts import layout_of, matrix_shape

UNDECAYED = ("scalar",)
"""Roles without weight decay, unless their group sets it."""

EMBEDDING = re.compile(r"(^|_)emb|^(wte|wpe|shared)$")
HEAD = re.compile(r"^heads?(_|$)|_heads?$|^(output|output_layer|unembed|embed_out|classifier|score|logits)$")
SCALAR = re.compile(r"(^|_)sinks?$|^A_log$")
"""Names of parameters that are no matrices whatever their shape: attention sinks, and the decay rates of a state space
(arXiv 2312.00752)."""
BIAS = re.compile(r"(^|_)bias(es)?(_|$)")
"""Names of the biases in a stack of experts, which are [experts, out]."""
EXPERTS = re.compile(r"(^|_)experts?(_|$)")
ROUTER = re.compile(r"(^|_)router(_|$)")
NORM = re.compile(r"Norm")
"""Names of types of modules whose own parameters are scalars."""
GATE = re.compile(r"^(gate|gating|wg)$")
"""Names of modules that are routers if they have an output for each of the experts beside them."""


def group_by_role(params: Any, choices: Choices = NOTHING) -> Any:
    """Parameter groups, one for each role and form, of a module or of (name, parameter) pairs; anything else is
    returned as it is.

    An embedding is the weight of an nn.Embedding, or its name or its module's looks like one (`EMBEDDING`). A head is a
    matrix outside the numbered layers that has a head's name or module (`HEAD`) or the shape of an embedding. A tensor
    that is both, tied, is an embedding. A router is named like one (`ROUTER`), or it is named like a gate (`GATE`) and
    has an output for each of the experts beside it. Three dimensions are a stack of matrices within modules that are
    named like experts (`EXPERTS`).

    A module tells more than names, which may belong to a part of a model: its heads are also found by what `_heads`
    says, its fused projections and the layouts of its matrices by `muloco.optim.forms`, and parameters of its norms are
    scalars whatever their shape.

    Raises:
        ValueError: something is chosen and there are no names, a regular expression is none or matches no parameter (of
            `split` and `per_head`: no matrix), or a role is unknown.
    """
    model = params if isinstance(params, nn.Module) else None
    if not isinstance(params, Tensor | dict):
        params = list(params) if model is None else list(model.named_parameters())
    if not isinstance(params, list) or not params or not all(isinstance(param, tuple) for param in params):
        for name in (name for name, value in choices._asdict().items() if value):
            key = "role" if name == "role_of" else name
            raise ValueError(f"{name} needs names: pass a module or (name, parameter) pairs, or give groups a {key!r}")
        return params
    roles, known = _roles(params, model)
    by_name = chosen_roles([name for name, _ in params], choices.role_of)
    roles |= {id(param): by_name[name] for name, param in params if name in by_name}
    matrices = [name for name, param in params if takes_matrices(ALGORITHMS[roles[id(param)]])]
    split = matching(matrices, choices.split, "split", "matrix")
    per_head = matching(matrices, choices.per_head, "per_head", "matrix")
    groups: dict[tuple[str, Form], list[tuple[str, Tensor]]] = {}
    for role, rule in ALGORITHMS.items():
        for name, param in params:
            if roles[id(param)] != role:
                continue
            form = Form()
            if takes_matrices(rule):
                form = known.get(id(param), Form(layout_of(param.ndim)))
                form = Form(form.layout, split.get(name, form.split), per_head.get(name))
            groups.setdefault((role, form), []).append((name, param))
    return [
        {"params": members, "role": role, "layout": form.layout}
        | {name: value for name, value in form._asdict().items() if name != "layout" and value is not None}
        for (role, form), members in groups.items()
    ]


def roles_of(model: nn.Module) -> dict[str, str]:
    """Returns the role of each parameter of a module, by name, as `group_by_role` finds it."""
    params: list[tuple[str, Tensor]] = list(model.named_parameters())
    roles, _ = _roles(params, model)
    return {name: roles[id(param)] for name, param in params}


def splits_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Returns the `split` of each fused projection of a module, by name, as `group_by_role` finds it."""
    known = forms(model)
    splits = {name: known[id(param)].split for name, param in model.named_parameters() if id(param) in known}
    return {name: split for name, split in splits.items() if split is not None}


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
            if takes_matrices(group["algorithm"]):
                held = held_matrices(param.shape, group["layout"], group.get("split"), group.get("per_head"))
                shape += f" as {held}" if held != shape else ""
            alike.setdefault((_starred(name) if name else "without name", shape), []).append(name or "without name")
        for (starred, shape), names in alike.items():
            lines.append(f"    {names[0]} {shape}" if len(names) == 1 else f"    {starred} {shape} x {len(names)}")
    return "\n".join(lines)


def named(group: dict[str, Any]) -> Iterable[tuple[str | None, Tensor]]:
    """The parameters of a group with their names, or None."""
    names = group.get("param_names") or [None] * len(group["params"])
    return zip(names, group["params"], strict=True)


def _roles(params: list[tuple[str, Tensor]], model: nn.Module | None) -> tuple[dict[int, str], dict[int, Form]]:
    """The roles of parameters, and the forms that a module tells, by id."""
    tables, gains, known = set(), set(), {}
    if model is not None:
        known = forms(model)
        for module in model.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                tables.add(id(module.weight))
            elif NORM.search(type(module).__name__):
                gains |= {id(param) for param in module.parameters(recurse=False)}
    tables |= {id(param) for name, param in params if any(map(EMBEDDING.search, _last_names(name)))}
    shapes = {param.shape for _, param in params if id(param) in tables}
    experts = _experts(params)

    def role(name: str, param: Tensor) -> str:
        own = _last_names(name)[-1]
        if param.ndim < 2 or id(param) in gains or SCALAR.search(own) or (BIAS.search(own) and _is_stack(name)):
            return "scalar"
        if param.ndim > 2:
            return "matrix" if id(param) in known or (param.ndim == 3 and _is_stack(name)) else "other"
        if id(param) in tables:
            return "embedding"
        if _is_router(name, param, experts):
            return "router"
        called = any(map(HEAD.search, _last_names(name)))
        if not _in_layers(name) and (called or param.shape in shapes):
            return "head"
        return "matrix"

    roles = {id(param): role(name, param) for name, param in params}
    matrices = [(name, param) for name, param in params if roles[id(param)] == "matrix"]
    alone = len(matrices) == 1 and not tables  # otherwise nothing would be left for Muon
    if model is not None and not alone:
        heads = _heads(model, matrices, known, named="head" in roles.values())
        if len(heads) < len(matrices) or tables:
            roles |= dict.fromkeys(heads, "head")
    return roles, known


def _is_stack(name: str) -> bool:
    """Whether a name is that of a stack of experts, and not of one of several numbered ones."""
    path = name.split(".")
    places = [place for place, part in enumerate(path) if EXPERTS.search(part)]
    return bool(places) and not any(part.isdigit() for part in path[places[-1] :])


def _experts(params: list[tuple[str, Tensor]]) -> dict[str, set[int]]:
    """The numbers of experts that there are below each module: numbered ones, and those of each stack."""
    numbered: dict[str, set[str]] = {}
    found: dict[str, set[int]] = {}
    for name, param in params:
        path = name.split(".")
        place = next((place for place, part in enumerate(path[:-1]) if EXPERTS.search(part)), None)
        if place is None:
            continue
        above = ".".join(path[:place])
        if path[place + 1].isdigit():
            numbered.setdefault(above, set()).add(path[place + 1])
        elif param.ndim == 3 and _is_stack(name):
            found.setdefault(above, set()).add(param.shape[0])
    for above, numbers in numbered.items():
        found.setdefault(above, set()).add(len(numbers))
    return found


def _is_router(name: str, param: Tensor, experts: dict[str, set[int]]) -> bool:
    path = name.split(".")
    if any(map(ROUTER.search, path)):
        return True
    if not any(map(GATE.search, path[-2:])) or any(map(EXPERTS.search, path)):
        return False
    return any(param.shape[0] in experts.get(".".join(path[:length]), ()) for length in range(len(path)))


def _heads(model: nn.Module, matrices: list[tuple[str, Tensor]], known: dict[int, Form], *, named: bool) -> set[int]:
    """Ids of the matrices of a model, outside its numbered layers, that are heads although their own names do not tell.

    The first of these rules that finds some decides; the last two are not asked if a name has told already (`named`):

    1. the last matrix of an nn.Sequential that is named like a head (`classifier.6`), and a convolution named like one;
    2. the last matrix of the model if it is named `fc`;
    3. the last matrix of the model if no other takes as many inputs as it has outputs, and those directly before it
       that take the same number of inputs and of which this is true as well: several heads on the same features. None
       of them is one of several like it in numbered layers.

    The first convolution of a model is never a head: it takes the model's inputs.
    """
    first = next((id(param) for _, param in matrices if _layout(param, known) == "flatten"), None)
    heads = set()
    for path, module in model.named_modules():
        if _in_layers(path) or not HEAD.search(path.rpartition(".")[2]):
            continue
        if isinstance(module, nn.Sequential | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            of_module = {id(param) for param in module.parameters()}
            inside = [id(param) for _, param in matrices if id(param) in of_module]
            heads |= set(inside[-1:]) - {first}
    if heads or named or not matrices:
        return heads
    name, last = matrices[-1]
    if id(last) == first:
        return set()
    if _last_names(name)[0] == "fc" and not _in_layers(name):
        return {id(last)}
    kinds = Counter((_starred(other), param.shape) for other, param in matrices)
    sizes = [_out_and_in(param, known) for _, param in matrices]
    for index in reversed(range(len(matrices))):
        name, param = matrices[index]
        inputs = {taken for other, (_, taken) in enumerate(sizes) if other != index}
        alone = kinds[_starred(name), param.shape] == 1
        if id(param) == first or not alone or sizes[index][0] in inputs or sizes[index][1] != sizes[-1][1]:
            break
        heads.add(id(param))
    return heads


def _layout(param: Tensor, known: dict[int, Form]) -> str | None:
    return known[id(param)].layout if id(param) in known else layout_of(param.ndim)


def _out_and_in(param: Tensor, known: dict[int, Form]) -> tuple[int, int]:
    """Features that a matrix makes and takes; of a convolution, channels."""
    layout = _layout(param, known)
    return (param.shape[0], param.shape[1]) if layout == "flatten" else matrix_shape(param.shape, layout)


def _in_layers(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))


def _starred(name: str) -> str:
    """A name without the number of its layer; the numbers of a plain nn.Sequential (`2.weight`) are its names."""
    return name if re.fullmatch(r"\d+\.\w+", name) else re.sub(r"\b\d+\b", "*", name)


def _last_names(name: str) -> list[str]:
    """A parameter's module and its own name in it: `lm_head` and `weight` of `model.lm_head.weight`."""
    return name.split(".")[-2:]
