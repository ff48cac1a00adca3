"""DiLoCo at 416M with compressed pseudogradients and error feedback."""

from muloco.recipes import base
from muloco.settings.config import Config


def config() -> Config:
    config = base.workers(base.paper("416M"), 2)
    config.parallelism.data_parallel_replicate_degree = 4  # the paper replicates 150M and 416M (PAPER 2.1)
    # As published, a tenth of the elements, and the outer rate before compression as well as in the outer step. The
    # quantizers of PAPER 5.8: --compression.kind statistical or linear, --compression.reduce requantize
    config = base.compressed(config, "topk", fraction=0.1, reduce="gather", skip_norms=False, error_gain=0.9)
    # lr, outer lr and outer momentum of the paper's compressed runs at 416M (PAPER 4.1)
    return base.diloco(config, lr=0.003906, outer_lr=0.9, outer_momentum=0.9)
