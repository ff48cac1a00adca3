"""Streaming DiLoCo at 416M: three fragments, synchronized one after the other."""

from muloco.recipes import base
from muloco.settings.config import Config


def config() -> Config:
    config = base.workers(base.paper("416M"), 2)
    config.parallelism.data_parallel_replicate_degree = 4  # the paper replicates 150M and 416M (PAPER 2.1)
    # Neither overlap nor mixing, as in all the paper's streaming runs: tau = 0, alpha = 0 (PAPER 3.5)
    config = base.streaming(config, base.FRAGMENTS_416M)
    # lr and outer momentum of the paper's DiLoCo at 416M (PAPER 4.1), its outer lr for streaming is .9 as well (3.5)
    return base.diloco(config, lr=0.003906, outer_lr=0.9, outer_momentum=0.9)
