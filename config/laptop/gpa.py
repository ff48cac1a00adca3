"""Generalized Primal Averaging with two workers, at laptop size."""

from muloco.recipes import base
from muloco.settings.config import Config


def config() -> Config:
    return base.gpa(base.workers(base.laptop(), 2), lr=0.004)
