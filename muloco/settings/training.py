"""Batch, length and precision of the training."""

from dataclasses import dataclass
from typing import Literal

from muloco.settings.bounds import Count, Positive
from muloco.settings.section import Section


@dataclass(kw_only=True, slots=True)
class Training(Section):
    seq_len: Count = 2048
    """Length of a sequence in tokens."""
    global_batch_size: Count = 512
    """Sequences that all workers together take in one inner step (the paper's B)."""
    local_batch_size: Count = 16
    """Sequences in one forward pass of one rank; the rest of its share is accumulated."""
    tokens: Count | None = None
    """Token budget of all workers together. Derived: steps x batch where steps are given, else the paper's for the
    flavor (about 20 a parameter)."""
    steps: Count | None = None
    """Inner steps of each worker. Derived: token budget / tokens of a step. The last window may be a short one."""
    max_norm: Positive | None = 1.0
    """Largest gradient norm, larger ones are clipped; None: no clipping."""
    precision: Literal["bfloat16", "autocast", "float32"] | None = None
    """Precision of the forward and backward pass; parameters are stored, and gradients reduced, in float32. bfloat16:
    parameters and activations are cast (FSDP's mixed precision). autocast: only matrix products and attention are in
    bfloat16; embedding, norms and residual stream stay in float32. Derived, as in the paper: bfloat16 where parameters
    are sharded, else autocast."""
    disable_cuda_graphs: bool = False
    """Launch the kernels of the forward and backward pass one by one, instead of recording them into a CUDA graph and
    replaying it. A graph holds the memory of activations and gradients during other work, too. No graph is recorded
    without a CUDA device, for workers in one process, and with torch 2.11 (docs/performance.md)."""
