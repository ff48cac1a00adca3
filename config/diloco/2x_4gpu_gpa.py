"""Generalized Primal Averaging at 416M."""

from config import base
from muloco.training.config import Config


def config() -> Config:
    raise base.not_yet("GPA (Generalized Primal Averaging)", instead="config/diloco/2x_4gpu_diloco.py")
