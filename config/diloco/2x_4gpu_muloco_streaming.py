"""Streaming MuLoCo at 416M: three fragments, synchronized one after the other."""

from muloco.recipes import base
from muloco.settings.config import Config


def config() -> Config:
    config = base.workers(base.paper("416M"), 2)
    config.parallelism.data_parallel_replicate_degree = 4  # the paper replicates 150M and 416M (PAPER 2.1)
    # The one experiment of the paper with use_polar_express=True (PAPER 3.2)
    config.optimizer.orthogonalization = "polar_express"
    # Neither overlap nor mixing, as in all the paper's streaming runs: tau = 0, alpha = 0 (PAPER 3.5)
    config = base.streaming(config, base.FRAGMENTS_416M)
    # lr, outer lr and outer momentum of the paper's default config at 416M (PAPER 4.1)
    return base.muloco(config, lr=0.044, outer_lr=0.9, outer_momentum=0.8)
