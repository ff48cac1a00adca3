"""Muon in one worker, synchronized at every step: the baseline of MuLoCo."""

from muloco.recipes import base
from muloco.settings.config import Config


def config() -> Config:
    return base.data_parallel(base.laptop(), optimizer="Muon", lr=0.02)
