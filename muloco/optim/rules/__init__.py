"""The rules of the inner optimizer: a file for each. Reading the table imports no torch."""

import pkgutil
from importlib import import_module

from muloco.optim.rule import Rule

RULES: dict[str, Rule] = {
    module.name: import_module(f"{__name__}.{module.name}").RULE for module in pkgutil.iter_modules(__path__)
}
"""The rules by name, in alphabetical order. Every file in this folder is read; it has the name of its rule."""
