"""Which cases of a grid `make test` runs."""

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any

import pytest

full = pytest.mark.full
"""Left to `make test-all`; see README.md beside this file."""


def only(chosen: Iterable[Any], every: Iterable[Any]) -> list[Any]:
    """The values of a parameter: `make test` runs the chosen ones."""
    kept = list(chosen)
    return [value if value in kept else pytest.param(value, marks=full) for value in every]


def pairwise(*axes: Iterable[Any]) -> list[Any]:
    """The full product of some parameters. `make test` runs cases of it that hold every pair of two values."""
    cases = list(product(*map(list, axes)))
    pairs = {case: set(combinations(enumerate(map(repr, case)), 2)) for case in cases}
    missing, kept = set().union(*pairs.values()), set()
    while missing:
        best = max(cases, key=lambda case: len(pairs[case] & missing))
        kept.add(best)
        missing -= pairs[best]
    return [pytest.param(*case, marks=[] if case in kept else full) for case in cases]
