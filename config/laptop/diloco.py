"""DiLoCo (AdamW inside) with two workers: what MuLoCo is compared with."""

from muloco.recipes import base
from muloco.settings.config import Config


def config() -> Config:
    return base.diloco(base.workers(base.laptop(), 2), lr=0.004, outer_lr=0.7, outer_momentum=0.8)
