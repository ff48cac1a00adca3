"""DiLoCo at 416M: two workers of four GPUs each."""

from muloco.recipes import base
from muloco.settings.config import Config


def config() -> Config:
    config = base.workers(base.paper("416M"), 2)
    config.parallelism.data_parallel_replicate_degree = 4  # the paper replicates 150M and 416M (PAPER 2.1)
    # lr, outer lr and outer momentum of the paper's DiLoCo at 416M (PAPER 4.1)
    return base.diloco(config, lr=0.003906, outer_lr=0.9, outer_momentum=0.9)
