"""AdamW in one worker, synchronized at every step: the baseline of DiLoCo."""

from muloco.recipes import base
from muloco.settings.config import Config


def config() -> Config:
    return base.data_parallel(base.laptop(), optimizer="AdamW", lr=0.004)
