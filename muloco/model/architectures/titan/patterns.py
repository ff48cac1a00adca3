"""Regular expressions for the names of parameters that are alike in all layers."""

import re
from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")


def patterns_of(values: Mapping[str, Value]) -> dict[Value, str]:
    """Returns a regular expression for the names that have each value. It matches these names, with any numbers of
    layers, and no others."""
    starred: dict[Value, dict[str, None]] = {}
    for name, value in values.items():
        pattern = r"\d+".join(map(re.escape, re.split(r"(?<=\.)\d+(?=\.)", name)))
        starred.setdefault(value, {})[pattern] = None
    return {value: f"^({'|'.join(patterns)})$" for value, patterns in starred.items()}
