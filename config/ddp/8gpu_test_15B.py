"""15B sharded over the eight GPUs of one node, for a few steps: does it fit?"""

from muloco.recipes import base
from muloco.settings.config import Config


def config() -> Config:
    # 2 sequences a rank: the paper's local batch from width 3072 up (PAPER 2.3)
    config = base.short_test(base.paper("15B"), steps=20, batch=64, local_batch=2)
    config.parallelism.data_parallel_shard_degree = 8
    return base.data_parallel(config, optimizer="AdamW", lr=3e-4)  # the published test's rate
