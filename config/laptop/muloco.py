"""MuLoCo with two workers in minutes on two CPU cores, on text that every Python brings along."""

from muloco.recipes import base
from muloco.settings.config import Config


def config() -> Config:
    return base.muloco(base.workers(base.laptop(), 2), lr=0.02, outer_lr=0.7, outer_momentum=0.6)
