"""Look a name up in a table of choices."""

from collections.abc import Mapping
from typing import TypeVar

from muloco.suggest import allowed

T = TypeVar("T")


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """`table[name]`.

    Args:
        table: the choices.
        name: the one asked for.
        what: what the table holds, for the message.

    Raises:
        ValueError: there is no such name; the message has the nearest one and all that are allowed.
    """
    if isinstance(name, str) and name in table:
        return table[name]
    raise ValueError(f"unknown {what} {name!r}: {allowed(str(name), table)}")
