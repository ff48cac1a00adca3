"""3.1B sharded over the eight GPUs of one node, for a few steps."""

from muloco.recipes import base
from muloco.settings.config import Config


def config() -> Config:
    # 4 sequences a rank: the paper's local batch at 3.1B (PAPER 2.3); sharded over 8 from 914M up (PAPER 2.1)
    config = base.short_test(base.paper("3.1B"), steps=20, batch=128, local_batch=4)
    config.parallelism.data_parallel_shard_degree = 8
    return base.data_parallel(config, optimizer="AdamW", lr=3e-4)  # the published test's rate
