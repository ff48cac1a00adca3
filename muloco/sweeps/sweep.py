"""A sweep as data: grids of points, each of which sets fields of a config. Needs nothing but Python."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Given:
    """A value and where it comes from: a kind, a colon, the details, as in `Given(0.0625, "published: PAPER 4.1")`."""

    value: Any
    origin: str


Point = Mapping[str, Any]
"""Values (or `Given`) by the full name of a field, such as `{"optimizer.lr": 0.02}`."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Runs of one config that differ in some fields."""

    name: str
    """Prefix of the names of its jobs."""
    config: str
    """Path of a config file, relative to the current folder or to the checkout."""
    points: Sequence[Point]
    """One run each. A field that a point leaves out is as in the config, or derived from the others by `resolve`."""
    named: Sequence[str] = ()
    """Fields that are in the names of jobs in any case; others only if they tell points apart."""


@dataclass(frozen=True)
class Sweep:
    """Grids that are run together. `+` puts sweeps together; a run that two of their grids share is run once."""

    grids: tuple[Grid, ...]

    def __init__(self, *grids: Grid):
        object.__setattr__(self, "grids", grids)

    def __add__(self, other: "Sweep") -> "Sweep":
        return Sweep(*self.grids, *other.grids)


def product(values: Mapping[str, Sequence[Any]]) -> list[Point]:
    """All combinations of values by field, the last field changing fastest. Products are joined as lists are, with `+`.

    >>> product({"model.flavor": ["150M", "416M"], "optimizer.lr": [0.02]})
    [{'model.flavor': '150M', 'optimizer.lr': 0.02}, {'model.flavor': '416M', 'optimizer.lr': 0.02}]
    """
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def plain(point: Point) -> dict[str, Any]:
    """The values of a point without their origins."""
    return {field: value.value if isinstance(value, Given) else value for field, value in point.items()}


def origins(point: Point) -> dict[str, str]:
    """Where the values of a point come from, as far as it says so."""
    return {field: value.origin for field, value in point.items() if isinstance(value, Given)}
