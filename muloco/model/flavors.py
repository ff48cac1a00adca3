"""Finds flavors by name among the registered architectures. Needs nothing but Python."""

import difflib

from muloco.model import paper_llama
from muloco.model.architecture import Flavor, architectures, register

register(paper_llama.ARCHITECTURE)


def flavors() -> list[str]:
    """Full names of all flavors, smallest first in each architecture."""
    return [flavor.name for flavor in _all()]


def aliases() -> list[str]:
    """Short names of all flavors, in the same order."""
    return [flavor.alias for flavor in _all()]


def flavor(name: str) -> Flavor:
    """The flavor with this name or alias.

    Raises:
        ValueError: there is none; the message names a similar one, if there is one, and lists the aliases.
    """
    known = {key: flavor for flavor in _all() for key in (flavor.alias, flavor.name)}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ValueError(f"model.flavor: there is no flavor {name!r}; {hint}the flavors are {', '.join(aliases())}")


def _all() -> list[Flavor]:
    return [flavor for known in architectures() for flavor in known.flavors]
