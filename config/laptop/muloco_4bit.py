"""MuLoCo with two workers whose pseudogradients travel in 4 bits an element, with error feedback."""

from muloco.recipes import base
from muloco.settings.config import Config


def config() -> Config:
    config = base.compressed(base.workers(base.laptop(), 2), "lloyd_max", bits=4)
    return base.muloco(config, lr=0.02, outer_lr=0.7, outer_momentum=0.6)
