"""The role of each parameter of one of torchtitan's models, by what it is used for."""

import re
from collections.abc import Mapping

from torch import nn

from muloco._torchtitan import GroupedExperts, TokenChoiceTopKRouter
from muloco.model.architecture import ROLES


def roles_of(model: nn.Module) -> dict[str, str]:
    """Returns the role of every parameter of a decoder, by name.

    The weights of linear layers are matrices, but for the head, which has its own role, and the router of a mixture of
    experts, which AdamW steps as it steps vectors: its rows are compared with each other, so they are no map from one
    space to another. Biases, norms and attention sinks are `scalar`. So are the stacked matrices of experts, as Muon
    takes no stacks yet.
    """
    roles = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False):
            roles[f"{path}.{name}"] = _role(path, module, parameter)
    routers = [path for path, module in model.named_modules() if isinstance(module, TokenChoiceTopKRouter)]
    inside = tuple(f"{path}." for path in routers)
    known = {name: "scalar" if name.startswith(inside) else role for name, role in roles.items()}
    return {name: known[name] for name, _ in model.named_parameters()}  # a tied head is its embedding


def _role(path: str, module: nn.Module, parameter: nn.Parameter) -> str:
    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, GroupedExperts) or parameter.ndim != 2 or not isinstance(module, nn.Linear):
        return "scalar"
    return "head" if path == "lm_head" else "matrix"


def patterns_of(roles: Mapping[str, str]) -> dict[str, str]:
    """Returns a regular expression for the names of the parameters of each role, in the order of `ROLES`. Each matches
    the given names, with any numbers of layers, and no others."""
    starred: dict[str, dict[str, None]] = {}
    for name, role in roles.items():
        starred.setdefault(role, {})[r"\d+".join(map(re.escape, re.split(r"(?<=\.)\d+(?=\.)", name)))] = None
    return {role: f"^({'|'.join(starred[role])})$" for role in ROLES if role in starred}
