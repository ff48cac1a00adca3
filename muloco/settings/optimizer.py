"""The inner optimizer, its roles of parameters and its learning rate."""

from dataclasses import dataclass, field
from typing import Literal

from muloco.settings.bounds import Amount, Count, Momentum, NotNegative, Positive, Share, SomeShare
from muloco.settings.section import Section


@dataclass(kw_only=True, slots=True)
class Role(Section):
    rule: Literal["muon", "adamw", "lion"] | None = None
    """What steps these parameters. None: what optimizer.name says."""
    lr_factor: Positive = 1.0
    """Their learning rate, as a multiple of optimizer.lr."""
    weight_decay_factor: NotNegative = 1.0
    """Their weight decay, as a multiple of optimizer.weight_decay; it takes part in their learning rate."""


@dataclass(kw_only=True, slots=True)
class Optimizer(Section):
    """The inner optimizer of every worker."""

    name: Literal["AdamW", "Muon", "SGD", "GPA"] = "Muon"
    """Muon takes the matrices of the layers; embedding, head and norms go to AdamW at the same learning rate. AdamW and
    SGD take all. GPA is AdamW under primal averaging (docs/optimizers.md). Other mixtures of rules: by role, below."""
    lr: Positive = 0.02
    """Peak learning rate."""
    weight_decay: NotNegative | None = None
    """Decoupled weight decay. Derived by the paper's rule: (flavor's best at 512 sequences) x (B / K) / 512."""
    cautious_weight_decay: bool = False
    """Decay only what the step does not move away from zero."""
    beta1: Momentum = 0.9
    """First decay of AdamW and Lion."""
    beta2: Momentum = 0.99
    """Second decay of AdamW and Lion."""
    eps: Positive = 1e-8
    """Epsilon of AdamW."""
    mu: Momentum = 0.9
    """Momentum of Muon and of SGD."""
    mu_x: Momentum | None = None
    """GPA: how slowly the average follows. Derived: 0.9967^(32 / H), so that it averages over some H inner steps."""
    mu_y: SomeShare | None = None
    """GPA: how near to the average gradients are taken. Derived: 0.7."""
    nesterov: bool = False
    """Nesterov momentum in Muon and in SGD."""
    adjust_lr: Literal["spectral_norm", "rms_norm", "none"] = "spectral_norm"
    """Muon's factor on the learning rate: sqrt(out / in), 0.2 sqrt(max(out, in)), or 1."""
    orthogonalization: Literal["muloco", "quintic", "polar_express"] = "muloco"
    """Coefficients of Muon's orthogonalization: muloco, the paper's five steps; quintic, Keller Jordan's one
    polynomial; polar_express, the five steps of Polar Express."""
    orthogonalization_steps: Count | None = None
    """Steps of the orthogonalization: fewer use the first coefficients, more repeat the last ones. None: 5."""
    symmetric_products: Literal["auto", "triton", "matmul"] = "auto"
    """How Muon computes symmetric matrix products. triton: one triangle, which is mirrored; it needs CUDA devices.
    matmul: all elements. auto: whichever is faster on a GPU when a shape first occurs, and matmul elsewhere. A run on
    GPUs that is to be repeated bit by bit needs triton or matmul: auto may choose differently, and results then differ
    by rounding.
    """
    matrix: Role = field(default_factory=Role)
    """The matrices of the layers: attention and feed-forward."""
    embedding: Role = field(default_factory=Role)
    """The token embedding."""
    head: Role = field(default_factory=Role)
    """The output head."""
    scalar: Role = field(default_factory=Role)
    """The norms, which are vectors: adamw or lion."""

    def roles(self) -> dict[str, Role]:
        """The roles of parameters, by name."""
        return {"matrix": self.matrix, "embedding": self.embedding, "head": self.head, "scalar": self.scalar}


@dataclass(kw_only=True, slots=True)
class LRScheduler(Section):
    """The inner learning rate: linear warm-up, then cosine decay over the rest of the run."""

    warmup_steps: Amount = 500
    """Inner steps of linear warm-up."""
    total_steps: Count | None = None
    """Inner steps after which the inner learning rate, and an outer one with a schedule, reach their last values and
    stay there. Default: training.steps, so that a run that is extended follows the schedule of its new length."""
    min_lr_factor: Share = 0.1
    """Learning rate at the end, as a share of the peak."""
