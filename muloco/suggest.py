"""Suggests the names that a user may have meant. Needs nothing but Python."""

import difflib
from collections.abc import Collection, Iterable


def similar(name: str, known: Iterable[str], *, cutoff: float = 0.6, most: int = 1) -> list[str]:
    """Returns the known names, at most `most`, whose similarity to a name is at least `cutoff`, from 0 to 1
    (`difflib.SequenceMatcher.ratio`), the most similar one first. Case does not count."""
    lower = {other.lower(): other for other in known}
    return [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=most, cutoff=cutoff)]


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Returns `did you mean ...?` with the most similar of the known names, or nothing if none is similar."""
    return "".join(f"did you mean {match}?" for match in similar(name, known, cutoff=cutoff))


def allowed(name: str, known: Collection[str]) -> str:
    """Returns all known names in quotes for a message, `allowed are ...`, after the most similar one, if there is one:
    `did you mean ...? allowed are ...`."""
    hint = "".join(f"did you mean {match!r}? " for match in similar(name, known))
    return f"{hint}allowed are {', '.join(map(repr, known))}"
