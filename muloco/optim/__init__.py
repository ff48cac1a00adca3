"""Inner optimizers. Needs torch alone."""

from muloco.optim.muon import Muon
from muloco.optim.orthogonalize import PRESETS, orthogonalize

__all__ = ["PRESETS", "Muon", "orthogonalize"]
