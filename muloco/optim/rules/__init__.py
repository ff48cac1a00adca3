"""The rules of the inner optimizer: a file for each. Reading the table imports no torch."""

import pkgutil
from importlib import import_module

from muloco.optim.rule import Rule

RULES: dict[str, Rule] = {
    module.name: import_module(f"{__name__}.{module.name}").RULE for module in pkgutil.iter_modules(__path__)
}
"""By name, in alphabetical order. A file is found by being in this folder; it is named as its rule."""
