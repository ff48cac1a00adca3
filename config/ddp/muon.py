"""Data-parallel Muon at 416M on eight GPUs: the baseline of MuLoCo."""

from muloco.recipes import base
from muloco.settings.config import Config


def config() -> Config:
    config = base.paper("416M")
    config.parallelism.data_parallel_replicate_degree = 8  # the paper replicates 150M and 416M (PAPER 2.1)
    # rate of the paper's DP Muon at 416M and 512 sequences, from its checkpoints' names (PAPER 4.1)
    return base.data_parallel(config, optimizer="Muon", lr=0.04728708)
