"""How a worker is spread over its ranks, and how each of them computes."""

from dataclasses import dataclass
from typing import Literal

from muloco.settings.annotations import Common, Count, MayChange, Seconds
from muloco.settings.section import Section


@dataclass(kw_only=True, slots=True)
class Parallelism(Section):
    """How one worker is spread over its ranks (processes, one for each device)."""

    data_parallel_shard_degree: Common[Count] = 1
    """Ranks over which parameters are sharded (FSDP2)."""
    data_parallel_replicate_degree: Common[Count] = 1
    """Ranks over which parameters are replicated; with a shard degree above 1: HSDP."""
    tensor_parallel_degree: Common[Count] = 1
    """Ranks that share every matrix product and read the same data; it must divide the heads, the feed-forward width,
    the vocabulary and training.seq_len."""
    pipeline_parallel_degree: Common[Count] = 1
    """Stages of a pipeline into which the layers are divided, each on ranks of its own. The sequences of a batch go
    through it one by one (1F1B). The product of the four degrees is the number of ranks of a worker."""
    collective_timeout_seconds: MayChange[Seconds] = 600
    """Time limit of a collective between the ranks of a worker. It must be longer than a rank may compile or record a
    CUDA graph while the others wait for it. A worker with a rank that hangs ends after this time."""


@dataclass(kw_only=True, slots=True)
class ActivationCheckpoint(Section):
    mode: Literal["none", "selective", "full"] = "none"
    """What the backward pass computes again instead of keeping it. none: nothing. selective: what is cheap in each
    layer (all but attention and every second matrix product). full: each layer, from its input. Gradients stay the
    same."""


@dataclass(kw_only=True, slots=True)
class Compile(Section):
    enable: bool = False
    """torch.compile for the layers and the loss."""
