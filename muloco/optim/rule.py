"""The description of a rule of the inner optimizer: its options with their bounds, its state and its step. Imports no
torch.

docs/extending.md shows how a rule is added.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from muloco.suggest import allowed

if TYPE_CHECKING:
    from torch import Tensor

Read = Callable[[str, Any], Any]
"""Checks the value of an option, by the option's name and the value, and returns it as Python's own type.

Raises ValueError where the value is not allowed."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a rule: a keyword of the optimizers' constructors and a key of the groups of the rules that take it.

    Options of two rules that have the same name are the same object.
    """

    name: str
    default: Any
    """Default of the constructors or, if `in_constructor` is False, of a group."""
    read: Read
    about: str
    """Meaning of the option, as a cell of the table in docs/optimizers.md."""
    default_text: str | None = None
    """The default as the table shows it, where that is not the value."""
    in_constructor: bool = True
    """Whether it is a keyword of the constructors. False: a key of groups only."""
    allowed_everywhere: bool = False
    """Whether a group of another rule may have it, where it changes nothing, as torchtitan writes it into every group.
    """
    in_all_groups: bool = False
    """Whether groups of other rules hold the default as well, as in all checkpoints so far. New options need not."""


T = TypeVar("T")

Per = Literal["element", "row", "tensor"]
"""The parts of a parameter for which a buffer of the state has one number each."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How the parameters of a group are stepped. It has either a `step` or a `direction`."""

    name: str
    """Name of the rule in `algorithm` of a group and in `optimizer.ROLE.rule` of a config."""
    label: str
    """Name of the rule in reports."""
    about: str
    """One sentence for the table in docs/optimizers.md."""
    options: tuple[Option, ...]
    """Options of the rule, besides `lr`, `lr_factor`, `weight_decay` and `cautious_weight_decay`, which all rules
    have."""
    state: Mapping[str, Per]
    """The buffers that the rule keeps for a parameter, by name."""
    takes: Literal["matrices", "anything"] = "anything"
    """Which parameters the rule can step."""
    step: "Callable[[list[Tensor], dict[str, Any], Mapping[Tensor, Any]], None] | None" = None
    """Steps parameters that have a gradient, in place, given their group and the optimizer's state, which holds the
    buffers. Sharded parameters are DTensors, which it may only treat element by element."""
    direction: "Callable[..., Tensor] | None" = None
    """Computes the direction of whole matrices, which are sent to one rank each if parameters are sharded: see
    `muloco.optim.whole_matrices.Direction`."""

    @property
    def needs_whole_matrices(self) -> bool:
        return self.direction is not None

    @property
    def words(self) -> int:
        """Numbers of state for each element of a parameter; those for a row or a tensor do not count."""
        return sum(per == "element" for per in self.state.values())


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """`table[name]`; `what` says in the message what the table holds.

    Raises:
        ValueError: there is no such name; the message has the nearest one and all that are allowed.
    """
    if isinstance(name, str) and name in table:
        return table[name]
    raise ValueError(f"unknown {what} {name!r}: {allowed(str(name), table)}")


def number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name} must be a number, not {value!r}")
    return value if isinstance(value, int) else float(value)  # numpy's would not survive torch.load


def at_least_zero(name: str, value: Any) -> float:
    value = number(name, value)
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, not {value}")
    if value == math.inf:
        raise ValueError(f"{name} must be finite, not {value}")
    return value


def below_one(name: str, value: Any) -> float:
    value = number(name, value)
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), not {value}")
    return value


def above_zero_to_one(name: str, value: Any) -> float:
    value = number(name, value)
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be in (0, 1], not {value}")
    return value


def pair_below_one(name: str, value: Any) -> tuple[float, ...]:
    if not (isinstance(value, tuple | list) and len(value) == 2):
        raise ValueError(f"{name} must be a pair of numbers, not {value!r}")
    return tuple(below_one(f"{name}[{index}]", part) for index, part in enumerate(value))


def switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {value!r}")
    return value


def switch_or_none(name: str, value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{name} must be True, False or None, not {value!r}")
    return value


def integer(least: int, expected: str = "") -> Read:
    """Integers of at least `least`; `expected` describes them in messages."""

    def read(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} must be {expected or f'an integer of at least {least}'}, not {value!r}")
        return int(value)

    return read


def some(read: Read) -> Read:
    """A sequence of values, which becomes a tuple."""

    def read_all(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise ValueError(f"{name} must be a list that is not empty, not {value!r}")
        return tuple(read(f"{name}[{index}]", entry) for index, entry in enumerate(value))

    return read_all


def one_or_some(read: Read) -> Read:
    """A value, or a sequence of values, which becomes a tuple."""
    several = some(read)
    return lambda name, value: (several if isinstance(value, Sequence) else read)(name, value)


def or_none(read: Read) -> Read:
    return lambda name, value: None if value is None else read(name, value)


def one_of(table: Mapping[str, Any], kind: str = "") -> Read:
    """A name in this table; `kind` says what is in it, where that is not the option's name."""

    def read(name: str, value: Any) -> str:
        lookup(table, value, kind or name)
        return value

    return read
