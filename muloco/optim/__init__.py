"""Inner optimizers, and the outer step of a single worker. Needs torch alone."""

from muloco.optim.gpa import GPA
from muloco.optim.muloco1 import MuLoCo1
from muloco.optim.optimizer import Muon
from muloco.optim.orthogonalize import PRESETS, orthogonalize

__all__ = ["GPA", "PRESETS", "MuLoCo1", "Muon", "orthogonalize"]
