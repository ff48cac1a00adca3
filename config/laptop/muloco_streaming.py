"""Streaming MuLoCo with two workers: three fragments, each exchanged beside the next inner step."""

from muloco.recipes import base
from muloco.settings.config import Config


def config() -> Config:
    config = base.streaming(base.workers(base.laptop(), 2), 3, delay=1)
    return base.muloco(config, lr=0.02, outer_lr=0.7, outer_momentum=0.6)
