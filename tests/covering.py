"""Which cases of a grid `make test` runs."""

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any

import pytest

full = pytest.mark.full
"""Left to `make test-all`; see README.md beside this file."""


def only(chosen: Iterable[Any], every: Iterable[Any]) -> list[Any]:
    """The values of a parameter, or of several as tuples: `make test` runs the chosen ones."""
    kept = list(chosen)
    values = [(value, value if isinstance(value, tuple) else (value,)) for value in every]
    return [pytest.param(*words, marks=[] if value in kept else full) for value, words in values]


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
