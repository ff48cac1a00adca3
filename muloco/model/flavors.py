"""Finds flavors by name among the registered architectures. Needs nothing but Python."""

import pkgutil
from importlib import import_module

from muloco.model import architectures
from muloco.model.architecture import Flavor, all_architectures, register
from muloco.model.architectures.titan.sizes import OBSTACLES
from muloco.suggest import did_you_mean

for _file in pkgutil.iter_modules(architectures.__path__):
    _module = import_module(f"{architectures.__name__}.{_file.name}")
    for _architecture in _module.ARCHITECTURES if hasattr(_module, "ARCHITECTURES") else [_module.ARCHITECTURE]:
        register(_architecture)


def flavors() -> list[str]:
    """Full names of all flavors, smallest first in each architecture."""
    return [flavor.name for flavor in _all()]


def aliases() -> list[str]:
    """Short names of all flavors, in the same order."""
    return [flavor.alias for flavor in _all()]


def in_words() -> str:
    """The aliases for a help text, where torchtitan's models are too many."""
    own = [flavor.alias for flavor in _all() if "/" not in flavor.alias]
    return f"{', '.join(own)}, or one of torchtitan's models, such as qwen3/0.6B (`muloco models` lists all)"


def flavor(name: str) -> Flavor:
    """The flavor with this name or alias. Raises ValueError if there is none; the message names a similar one, if there
    is one, and says which there are."""
    known = {key: flavor for flavor in _all() for key in (flavor.alias, flavor.name)}
    if name in known:
        return known[name]
    model = name.partition("/")[0]
    if model in OBSTACLES:
        raise ValueError(f"model.flavor: {name!r} cannot be trained: torchtitan's {model} {OBSTACLES[model]}")
    hint = " ".join(filter(None, (did_you_mean(name, known), f"the flavors are {in_words()}")))
    raise ValueError(f"model.flavor: there is no flavor {name!r}; {hint}")


def _all() -> list[Flavor]:
    return [flavor for known in all_architectures() for flavor in known.flavors]
