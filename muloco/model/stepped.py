"""The parameters of a flavor as an optimizer steps them: by role, and by the matrices that they consist of. Needs
nothing but Python."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from muloco.model.architecture import ROLES, Flavor
from muloco.optim.choices import NOTHING, Choices, chosen_roles, matching, takes_matrices
from muloco.optim.fused import PerHead, Split, held_matrices, parts
from muloco.optim.layouts import layout_of, matrix_shape


class _Form(NamedTuple):
    layout: str | None = None
    split: Split = None
    per_head: PerHead = None


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """Parameters of one role and rule that consist of matrices in the same way."""

    role: str
    rule: str
    shapes: Mapping[str, tuple[int, ...]]
    """The shapes of the parameters, by name."""
    pattern: str
    """A regular expression for their names."""
    layout: str | None = None
    split: Split = None
    per_head: PerHead = None

    @property
    def form(self) -> dict[str, Any]:
        """The options of their group that say how they are matrices, without those that are None."""
        options = {"layout": self.layout, "split": self.split, "per_head": self.per_head}
        return {name: value for name, value in options.items() if value is not None}

    @property
    def parameters(self) -> int:
        """Number of the elements of all of them."""
        return sum(map(math.prod, self.shapes.values()))

    def matrices(self, name: str) -> str:
        """Describes the shape of one of them and, if its matrices are others, these."""
        shape = self.shapes[name]
        if not takes_matrices(self.rule):
            return f"{list(shape)}"
        held = held_matrices(shape, self.layout, self.split, self.per_head)
        return f"{list(shape)}" if held == f"{list(shape)}" else f"{list(shape)} as {held}"


def stepped(size: Flavor, rules: Mapping[str, str], choices: Choices = NOTHING) -> list[Stepped]:
    """Returns the parameters of a flavor in groups, in the order of `ROLES`.

    Args:
        size: the flavor.
        rules: the rule of each role.
        choices: what the user says of parameters by their names; else the flavor's record decides.

    Raises:
        ValueError: what is chosen does not fit the parameters, or the rule of a role does not.
    """
    others = chosen_roles(size.shapes, choices.role_of)
    roles = {name: others.get(name) or size.role(name) for name in size.shapes}
    matrices = [name for name, role in roles.items() if takes_matrices(rules[role])]
    split = matching(matrices, choices.split, "split", "matrix")
    per_head = matching(matrices, choices.per_head, "per_head", "matrix")
    groups: dict[tuple[str, _Form], dict[str, tuple[int, ...]]] = {}
    for name, shape in size.shapes.items():
        form = _Form()
        if name in matrices:
            known = next((rows for pattern, rows in size.fused.items() if re.search(pattern, name)), None)
            form = _Form(layout_of(len(shape)), split.get(name, known), per_head.get(name))
            _check(name, shape, form, rules[roles[name]])
        groups.setdefault((roles[name], form), {})[name] = shape
    whole = [role for role in ROLES if sum(role == other for other, _ in groups) == 1 and not choices.role_of]
    return [
        Stepped(
            role=role,
            rule=rules[role],
            shapes=shapes,
            pattern=size.roles[role] if role in whole else f"^({'|'.join(map(re.escape, shapes))})$",
            **form._asdict(),
        )
        for role, form, shapes in sorted(
            ((role, form, shapes) for (role, form), shapes in groups.items()), key=lambda group: ROLES.index(group[0])
        )
    ]


def _check(name: str, shape: tuple[int, ...], form: _Form, rule: str) -> None:
    if len(shape) < 2:
        raise ValueError(f"{name} of shape {list(shape)} is no matrix, which {rule} takes; give it the role scalar")
    try:
        parts(matrix_shape(shape, form.layout)[0], form.split, form.per_head)
    except ValueError as error:
        raise ValueError(f"{name} of shape {list(shape)} {error}") from None
