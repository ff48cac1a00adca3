"""416M on one GPU for a few steps: does this machine train at all?"""

from muloco.recipes import base
from muloco.settings.config import Config


def config() -> Config:
    config = base.short_test(base.paper("416M"), steps=20, batch=64, local_batch=8)
    config.compile.enable = False
    return base.data_parallel(config, optimizer="AdamW", lr=3e-4)  # the published test's rate
