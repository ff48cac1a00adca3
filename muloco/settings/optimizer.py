"""The inner optimizer, its roles of parameters and its learning rate."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Literal

from muloco.errors import UserError
from muloco.optim.choices import ALGORITHMS, Choices, takes_matrices
from muloco.optim.rules import RULES
from muloco.settings.annotations import (
    Amount,
    Common,
    Count,
    MayChange,
    Momentum,
    NotNegative,
    Positive,
    Share,
    SomeShare,
    Text,
)
from muloco.settings.section import Origins, Section

if TYPE_CHECKING:
    RuleName = str
    ResolvedRuleName = str
else:
    RuleName = Literal[tuple(RULES)]
    ResolvedRuleName = Literal[(*RULES, "sgd")]

_USUAL_RULES = {
    "Muon": {"matrix": "muon", "others": "adamw"},
    "AdamW": {"matrix": "adamw", "others": "adamw"},
    "GPA": {"matrix": "adamw", "others": "adamw"},
    "SGD": {"matrix": "sgd", "others": "sgd"},
}
"""For each `optimizer.name`, the rule of the matrices and the rule of all other parameters, where none is given."""


def _by_pattern(field: str, entries: Iterable[str], value: str) -> Iterator[tuple[str, str]]:
    for entry in entries:
        pattern, _, right = entry.rpartition("=")
        if not pattern or not right:
            raise UserError(f"optimizer.{field} takes entries PATTERN={value}; got {entry}")
        yield pattern, right


def _rows(field: str, rows: str) -> tuple[int, ...]:
    if not all(re.fullmatch("[1-9][0-9]*", number) for number in rows.split(",")):
        raise UserError(f"optimizer.{field} takes numbers of rows, such as 64 or 64,32,32; got {rows}")
    return tuple(map(int, rows.split(",")))


@dataclass(kw_only=True, slots=True)
class Role(Section):
    rule: RuleName | None = None
    """Rule that steps these parameters (docs/optimizers.md). None: the rule that optimizer.name implies."""
    lr_factor: Positive = 1.0
    """Their learning rate, as a multiple of optimizer.lr."""
    weight_decay_factor: NotNegative = 1.0
    """Their weight decay, as a multiple of optimizer.weight_decay. A step decays by their learning rate (lr_factor
    included) times this."""


@dataclass(kw_only=True, slots=True)
class Optimizer(Section):
    """The inner optimizer of every worker."""

    name: Literal["AdamW", "Muon", "SGD", "GPA"] = "Muon"
    """Muon steps the matrices of the layers; AdamW steps embedding, head and norms at the same learning rate. AdamW and
    SGD step all parameters. GPA is AdamW under primal averaging (docs/optimizers.md). Other mixtures of rules: by role,
    below."""
    lr: Positive = 0.02
    """Peak learning rate."""
    weight_decay: NotNegative | None = None
    """Decoupled weight decay. Derived by the paper's rule: (flavor's best at 512 sequences) x (B / K) / 512."""
    cautious_weight_decay: bool = False
    """Cautious weight decay (arXiv 2510.12402): do not decay elements that the step moves away from zero."""
    beta1: Momentum = 0.9
    """First decay of the rules that have two, such as AdamW and Lion."""
    beta2: Momentum = 0.99
    """Second decay of the rules that have two, and decay of the second moment of NorMuon."""
    eps: Positive = 1e-8
    """Epsilon of the rules that divide by the root of a second moment: AdamW and NorMuon."""
    mu: Momentum = 0.9
    """Momentum of Muon, NorMuon and SGD."""
    mu_x: Momentum | None = None
    """GPA: share of the average x that an inner step keeps. Derived: 0.9967^(32 / H), so that x averages over about H
    inner steps."""
    mu_y: SomeShare | None = None
    """GPA: weight of the average x in the point at which gradients are computed. Derived: 0.7."""
    nesterov: bool = False
    """Nesterov momentum in Muon, NorMuon and SGD."""
    adjust_lr: Literal["spectral_norm", "rms_norm", "none"] = "spectral_norm"
    """Factor of Muon and NorMuon on the learning rate: sqrt(out / in), 0.2 sqrt(max(out, in)), or 1."""
    orthogonalization: Literal["muloco", "quintic", "polar_express"] = "muloco"
    """Coefficients of the orthogonalization of Muon and NorMuon: muloco, the paper's five steps; quintic, Keller
    Jordan's one polynomial; polar_express, the five steps of Polar Express."""
    orthogonalization_steps: Count | None = None
    """Steps of the orthogonalization: fewer use the first coefficients, more repeat the last ones. None: 5."""
    symmetric_products: MayChange[Literal["auto", "triton", "matmul"]] = "auto"
    """How Muon computes symmetric matrix products. triton: one triangle, which is mirrored; it needs CUDA devices.
    matmul: all elements. auto: whichever is faster on a GPU when a shape first occurs, and matmul elsewhere. A run on
    GPUs that is to be repeated bit by bit needs triton or matmul: auto may choose differently, and results then differ
    by rounding.
    """
    role_of: tuple[Text, ...] = ()
    """Roles of parameters that are to have another one than the model's record says, each as PATTERN=ROLE, where
    PATTERN is a regular expression that is searched for in their names: the first that matches decides."""
    split: tuple[Text, ...] = ()
    """Fused projections whose matrices Muon and NorMuon step one by one, each as PATTERN=ROWS,ROWS,... with the rows
    (outputs) of each matrix, in order. The pattern of rows repeats to the end, so that 1,1 are two matrices of rows in
    turn."""
    per_head: tuple[Text, ...] = ()
    """Projections whose attention heads Muon and NorMuon step one by one, each as PATTERN=ROWS with the rows of a head,
    or as PATTERN=ROWS,ROWS,... with those of each part of a fused projection."""
    matrix: Role = field(default_factory=Role)
    """The matrices of the layers: attention, feed-forward, and each matrix in a stack of experts."""
    embedding: Role = field(default_factory=Role)
    """The token embedding."""
    head: Role = field(default_factory=Role)
    """The output head."""
    router: Role = field(default_factory=Role)
    """The matrices that choose experts."""
    scalar: Role = field(default_factory=Role)
    """Norms, biases, sinks and other vectors, so their rule must not be one for matrices."""
    other: Role = field(default_factory=Role)
    """Parameters of more than two dimensions that are no stacks of matrices. Their rule must not be one for matrices.
    """

    def choices(self) -> Choices:
        """Returns what `role_of`, `split` and `per_head` say.

        Raises:
            UserError: an entry cannot be read.
        """
        return Choices(
            role_of=dict(_by_pattern("role_of", self.role_of, "ROLE")),
            split={pattern: _rows("split", rows) for pattern, rows in _by_pattern("split", self.split, "ROWS,ROWS")},
            per_head={
                pattern: _rows("per_head", rows)[0] if "," not in rows else _rows("per_head", rows)
                for pattern, rows in _by_pattern("per_head", self.per_head, "ROWS")
            },
        )

    def roles(self) -> Mapping[str, Role]:
        """The roles of parameters, by name."""
        return {name: getattr(self, name) for name in ALGORITHMS}

    def rules(self) -> dict[str, str]:
        """The rule of each role, by name."""
        return {name: role.rule or self.usual_rule(name) for name, role in self.roles().items()}

    def usual_rule(self, role: str) -> str:
        """Returns the rule of a role that has none of its own."""
        return _USUAL_RULES[self.name]["matrix" if takes_matrices(ALGORITHMS[role]) else "others"]

    def open_usual_rules(self) -> None:
        """Opens the rules that follow from the name, so that they follow from another name, too."""
        if self.name in list(_USUAL_RULES):
            for name, role in self.roles().items():
                if role.rule == self.usual_rule(name):
                    role.rule = None

    def complete(self, origins: Origins) -> None:
        """Derives the rules that are open.

        Raises:
            UserError: the settings of this section cannot be combined.
        """
        if self.name == "SGD":
            refused = [f"optimizer.{name}.*" for name, role in self.roles().items() if astuple(role) != astuple(Role())]
            if self.cautious_weight_decay:
                refused.append("optimizer.cautious_weight_decay")
            refused += [f"optimizer.{name}" for name in Choices._fields if getattr(self, name)]
            if refused:
                raise UserError(
                    f"optimizer.name SGD steps all parameters alike and does not know {', '.join(refused)}; "
                    "choose Muon or AdamW, or leave that out"
                )
        for name, what in (("scalar", "norms are vectors"), ("other", "these are no matrices")):
            rule = self.roles()[name].rule
            if rule is not None and takes_matrices(rule):
                others = " or ".join(rule for rule in RULES if not takes_matrices(rule))
                raise UserError(f"optimizer.{name}.rule {rule}: {what}, {rule} takes matrices; choose {others}")
        self.choices()
        for name, role in self.roles().items():
            if role.rule is None:
                role.rule = self.usual_rule(name)
                origins[f"optimizer.{name}.rule"] = f"optimizer.name {self.name}"


@dataclass(kw_only=True, slots=True)
class ResolvedRole(Role):
    rule: ResolvedRuleName
    """Rule that steps these parameters: one of `muloco.optim.rules`, or sgd with optimizer.name SGD."""


@dataclass(kw_only=True, slots=True)
class ResolvedOptimizer(Optimizer):
    weight_decay: NotNegative
    matrix: ResolvedRole
    embedding: ResolvedRole
    head: ResolvedRole
    router: ResolvedRole
    scalar: ResolvedRole
    other: ResolvedRole

    def roles(self) -> Mapping[str, ResolvedRole]:
        return {name: getattr(self, name) for name in ALGORITHMS}


@dataclass(kw_only=True, slots=True)
class LRScheduler(Section):
    """The inner learning rate: linear warm-up, then a decay over the rest of the run or, after a stable phase, over its
    last part."""

    warmup_steps: Amount = 500
    """Inner steps of linear warm-up."""
    total_steps: Common[Count | None] = None
    """Inner steps after which the inner learning rate, and an outer one with a schedule, reach their last values and
    stay there. Default: training.steps, so that a run that is extended follows the schedule of its new length."""
    decay_type: Literal["cosine", "linear", "sqrt"] = "cosine"
    """Shape of the decay: half a cosine, a line, or 1 minus a square root."""
    decay_ratio: SomeShare | None = None
    """Share of the steps that the decay takes, at the end of the schedule; before it the rate stays at its peak
    (warm-up, stable, decay: arXiv 2404.06395). None: the decay begins after the warm-up."""
    min_lr_factor: Share = 0.1
    """Learning rate at the end, as a share of the peak."""
