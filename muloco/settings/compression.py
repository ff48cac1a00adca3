"""The compression of pseudogradients."""

from dataclasses import dataclass
from typing import Literal

from muloco.settings.bounds import Bits, Positive, Share, SomeShare
from muloco.settings.section import Section


@dataclass(kw_only=True, slots=True)
class Compression(Section):
    """How pseudogradients travel between workers; docs/compression.md says more."""

    kind: Literal["none", "bf16", "linear", "statistical", "lloyd_max", "topk"] = "none"
    """none: fp32. bf16. linear, statistical: the paper's, of `bits` an element. lloyd_max: the best levels for the
    data. topk: the `fraction` of the elements that is largest."""
    bits: Bits | None = None
    """Bits an element of linear, statistical and lloyd_max, from 1 to 8. Derived: 4."""
    granularity: Literal["tensor", "row"] = "tensor"
    """One set of levels for a tensor (or a worker's part of it), or one for each row."""
    fraction: SomeShare | None = None
    """Share of the elements that topk sends. Derived: 0.1."""
    values: Literal["fp32", "bf16", "linear", "statistical", "lloyd_max"] | None = None
    """How topk sends values. Derived: fp32."""
    reduce: Literal["reselect", "gather", "requantize"] = "reselect"
    """reselect: the owner of each part encodes the mean again, so that 2 (K - 1) / K payloads leave a worker. gather:
    every worker gets every payload, and the mean is exact, but K - 1 payloads leave a worker. requantize: as gather,
    and the mean is encoded and decoded once more, as in the paper's quantized runs; it saves no bytes."""
    error_feedback: bool = False
    """What is lost in a sync is added in the next one."""
    error_decay: Share = 0.9
    """Share of it that is kept (beta)."""
    error_alpha: Share = 1.0
    """Share of what was sent that is taken off (alpha)."""
    error_gain: Positive = 1.0
    """Factor on a pseudogradient before the residual is added. The paper's code has outer_optimizer.lr here as well as
    in the outer step, so that it acts twice on what is compressed."""
    skip_norms: bool = True
    """Norms travel as fp32."""
    skip_embeddings: bool = False
    """Token embedding and output head travel as fp32."""
