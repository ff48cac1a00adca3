"""Inner optimizers, and the outer step of a single worker. Needs torch alone.

torch is imported with the first of the names below: what settings read, `muloco.optim.rules`, needs only Python.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muloco.optim.gpa import GPA
    from muloco.optim.muloco1 import MuLoCo1
    from muloco.optim.muon import Muon
    from muloco.optim.newton_schulz import orthogonalize
    from muloco.optim.presets import PRESETS

__all__ = ["GPA", "PRESETS", "MuLoCo1", "Muon", "orthogonalize"]

_MODULES = {"GPA": "gpa", "MuLoCo1": "muloco1", "Muon": "muon", "PRESETS": "presets", "orthogonalize": "newton_schulz"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"muloco.optim.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
