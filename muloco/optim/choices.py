"""The roles of parameters, and what a user says of parameters by their names. Imports no torch."""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeVar

from muloco.optim.rule import lookup
from muloco.optim.rules import RULES

T = TypeVar("T")

ALGORITHMS = {
    "matrix": "muon",
    "embedding": "adamw",
    "head": "adamw",
    "router": "muon",
    "scalar": "adamw",
    "other": "adamw",
}
"""The rule of each role. `matrix` are the matrices of hidden layers, stacks of experts among them. `router` chooses
experts. `scalar` are norms, biases, sinks, and what else has fewer than two dimensions. `other` has more than two and
is neither a stack nor an ungrouped convolution: learned positions, grouped and transposed convolutions.

Muon steps routers too, as in Moonlight (arXiv 2502.16982), which compares the spectra of routers that Muon and AdamW
have trained, in GLM-4.5 (arXiv 2508.06471) and in torchtitan's recipe for Kimi K2.
"""


class Choices(NamedTuple):
    """A user's choices for parameters, by regular expressions that are searched for in their names: the first one that
    matches decides."""

    role_of: Mapping[str, str] = {}
    split: Mapping[str, tuple[int, ...]] = {}
    per_head: Mapping[str, int | tuple[int, ...]] = {}


NOTHING = Choices()


def chosen_roles(names: Collection[str], role_of: Mapping[str, str]) -> dict[str, str]:
    """Returns the roles of those parameters for which one is chosen, by name.

    Raises:
        ValueError: as for `matching`, or there is no such role.
    """
    for role in role_of.values():
        lookup(ALGORITHMS, role, "role")
    return matching(names, role_of, "role_of", "parameter")


def matching(names: Collection[str], patterns: Mapping[str, T], what: str, kind: str) -> dict[str, T]:
    """Returns what the first of these regular expressions that matches a name gives it, by name.

    Raises:
        ValueError: a regular expression is none or matches no name; `what` and `kind` say in the message what it is for
            and what the names are of.
    """
    found: dict[str, T] = {}
    for pattern, value in patterns.items():
        try:
            matched = [name for name in names if re.search(pattern, name)]
        except re.error as error:
            raise ValueError(f"{what}: {pattern!r} is not a regular expression: {error}") from None
        if not matched:
            example = f"; such a name is {next(iter(names))}" if names else ""
            raise ValueError(f"{what}: {pattern!r} is in the name of no {kind}{example}")
        for name in matched:
            found.setdefault(name, value)
    return found


def takes_matrices(rule: str) -> bool:
    """Returns whether a rule is one for matrices."""
    return rule in RULES and RULES[rule].takes == "matrices"
