"""The runs of `muloco reproduce`: settings of the main comparison, of the claims about batches, bits and fragments, and
of the studies."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Method = Literal["DP Muon", "DP AdamW", "MuLoCo", "DiLoCo", "GPA", "GPA (Muon)"]
METHODS: dict[Method, tuple[str, float]] = {
    "DP Muon": ("config/laptop/muon.py", 0.16),
    "DP AdamW": ("config/laptop/adamw.py", 0.032),
    "MuLoCo": ("config/laptop/muloco.py", 0.04),
    "DiLoCo": ("config/laptop/diloco.py", 0.032),
    "GPA": ("config/laptop/gpa.py", 0.032),
    "GPA (Muon)": ("config/laptop/gpa.py", 0.04),
}
"""Config, and the inner learning rate at which searches begin at the usual batch; it follows the root of the batch."""
OUTER: dict[Method, dict[int, tuple[float, float]]] = {
    "MuLoCo": {1: (0.7, 0.6), 2: (0.8, 0.7), 4: (0.8, 0.7), 8: (0.9, 0.8)},
    "DiLoCo": {1: (0.7, 0.8), 2: (0.8, 0.8), 4: (0.8, 0.9), 8: (0.9, 0.9)},
}
"""Outer learning rate and momentum by K: PAPER 4.1 for 1 and 8, between them as in jobs/muloco_paper."""
OWN: dict[Method, Method] = {"MuLoCo": "DP Muon", "DiLoCo": "DP AdamW"}
"""The data-parallel baseline of each method."""
WARMUP_SHARE = 0.05
SYNC_STEPS = 30
"""H, as in the paper."""
FLAVOR = "tiny"
BATCH = 16
"""Sequences of all workers in an inner step, where a setting has no batch of its own."""
SEEDS = (1, 2, 3)
"""Seeds of the runs. The first one is that of the searches for learning rates."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """The size of a reproduction: which runs it has, and how long they are."""

    folder: str
    """Default folder."""
    seq_len: int
    steps: int
    """Inner steps at the usual batch. Runs at other batches take as many tokens."""
    workers: tuple[int, ...]
    """The K compared; the largest one is that of the claims about bits and fragments, and of the studies."""
    batches: tuple[int, ...]
    """Batches at which K = 1 is tried, besides `BATCH`."""
    held_out: int
    """Sequences of the held-out set."""
    extensions: int
    """How often a search goes one factor of 2 on, where the best rate is the first or the last tried."""
    studies: bool

    @property
    def tokens(self) -> int:
        """Number of tokens of a run."""
        return self.seq_len * BATCH * self.steps

    @property
    def checkpoint_step(self) -> int:
        """Step of the checkpoint of the data-parallel runs from which the pseudogradients are studied."""
        return self.steps // 2


FULL = Size(
    folder="outputs/paper",
    seq_len=256,
    steps=300,
    workers=(1, 2, 4, 8),
    batches=(4, 8, 32),
    held_out=64,
    extensions=2,
    studies=True,
)
QUICK = Size(
    folder="outputs/paper-quick",
    seq_len=128,
    steps=150,
    workers=(1, 4),
    batches=(),
    held_out=32,
    extensions=0,
    studies=False,
)


@dataclass(frozen=True)
class Setting:
    """Runs that differ in inner learning rate and seed alone."""

    name: str
    """Prefix of the names of its runs."""
    method: Method
    fields: Mapping[str, Any] = field(hash=False)
    """Fields of the config, on top of those that all runs have."""
    first_rate: float
    """Inner learning rate at which the search for the best begins."""
    like: "Setting | None" = None
    """Takes the inner learning rate that was found for this one, instead of a search of its own."""

    @property
    def workers(self) -> int:
        return self.fields.get("fault_tolerance.group_size", 1)

    @property
    def batch(self) -> int:
        return self.fields.get("training.global_batch_size", BATCH)

    def but(self, name: str, fields: Mapping[str, Any]) -> "Setting":
        """Returns this setting with other fields and a longer name, which takes its inner learning rate."""
        return Setting(f"{self.name}-{name}", self.method, {**self.fields, **fields}, self.first_rate, like=self)


@dataclass(frozen=True)
class Study:
    """A question beyond the paper: rows of a table, each with its setting. The first one is what others are compared
    with."""

    title: str
    question: str
    rows: Mapping[str, Setting] = field(hash=False)


class Design:
    """All settings of a size."""

    def __init__(self, size: Size):
        self.size = size
        self.baselines = [self._baseline("DP AdamW"), self._baseline("DP Muon")]
        self.by_workers = {
            (method, workers): _with_workers(method, workers) for workers in size.workers for method in OUTER
        }
        self.by_batch = [self._at_batch(method, batch) for batch in size.batches for method in OUTER]
        most = [self.by_workers[method, size.workers[-1]] for method in OUTER]
        four_bits = {"compression.kind": "statistical", "compression.bits": 4}
        self.compressed = [base.but("4bit", four_bits) for base in most]
        self.streaming = [base.but("J3", {"fault_tolerance.num_fragments": 3}) for base in most]
        self.studies = self._studies() if size.studies else []
        claimed = [[*self.baselines, *self.by_workers.values()], [*self.compressed, *self.streaming], self.by_batch]
        self.claimed = [setting for stage in claimed for setting in stage]
        """The settings that the claims are about."""
        studied = dict.fromkeys(setting for study in self.studies for setting in study.rows.values())
        self.stages = [*claimed, [setting for setting in studied if setting not in self.claimed]]
        """All settings, each once, in the order of their importance."""

    @property
    def settings(self) -> list[Setting]:
        return [setting for stage in self.stages for setting in stage]

    def at_batches(self) -> dict[tuple[Method, int], Setting]:
        """Returns the settings of K = 1, by method and batch."""
        usual = [self.by_workers[method, 1] for method in OUTER]
        return {(setting.method, setting.batch): setting for setting in (*usual, *self.by_batch)}

    def _baseline(self, method: Method) -> Setting:
        checkpoints = {
            "checkpoint.enable": True,
            "checkpoint.interval": self.size.checkpoint_step,
            "checkpoint.keep": 0,
        }
        return Setting(method.lower().replace(" ", "-"), method, checkpoints, METHODS[method][1])

    def _at_batch(self, method: Method, batch: int) -> Setting:
        base = self.by_workers[method, 1]
        steps = self.size.steps * BATCH // batch
        fields = {
            "training.global_batch_size": batch,
            "training.steps": steps,
            "lr_scheduler.warmup_steps": round(WARMUP_SHARE * steps),
            "validation.freq": steps,
        }
        rate = base.first_rate * math.sqrt(batch / BATCH)
        return Setting(f"{base.name}-B{batch}", method, {**base.fields, **fields}, float(f"{rate:.2g}"))

    def _studies(self) -> list[Study]:
        *_, fewer, workers = self.size.workers
        muloco, half = self.by_workers["MuLoCo", workers], self.by_workers["MuLoCo", fewer]
        average = {"outer_optimizer.lr": 1.0, "outer_optimizer.momentum": 0.0}
        feedback = {"compression.error_feedback": True}
        sparse = {"compression.kind": "topk", "compression.fraction": 0.1, "compression.reduce": "gather"}

        def bits(codec: str, error_feedback: bool) -> Setting:
            chosen = {"compression.kind": codec, "compression.bits": 2, "compression.error_feedback": error_feedback}
            return muloco.but(f"{codec}-2bit{'-feedback' * error_feedback}", chosen)

        def delayed(delay: int, alpha: float) -> Setting:
            chosen = {"fault_tolerance.fragment_sync_delay": delay, "fault_tolerance.fragment_update_alpha": alpha}
            return half.but(f"tau{delay}-alpha{alpha:g}", chosen)

        def averaging(name: str, method: Method, fields: Mapping[str, Any]) -> Setting:
            """One worker, which averages over some H inner steps, as its derived mu_x says."""
            single = {"fault_tolerance.group_size": 1, "fault_tolerance.sync_steps": SYNC_STEPS}
            return Setting(name, method, {**single, **fields}, METHODS[method][1])

        return [
            Study(
                "Two bits",
                f"Does `lloyd_max` lose less than the published 2-bit codec, `statistical`? MuLoCo, K = {workers}.",
                {
                    "fp32": muloco,
                    "statistical": bits("statistical", False),
                    "statistical, error feedback": bits("statistical", True),
                    "lloyd_max": bits("lloyd_max", False),
                    "lloyd_max, error feedback": bits("lloyd_max", True),
                },
            ),
            Study(
                "Error feedback as outer momentum",
                "Can error feedback take the place of outer momentum, as in SparseLoCo (arXiv 2508.15706)? The largest "
                f"10 % of the elements, gathered; MuLoCo, K = {workers}.",
                {
                    "fp32, Nesterov": muloco,
                    "fp32, plain average": muloco.but("average", average),
                    "top 10 %, Nesterov": muloco.but("topk", sparse),
                    "top 10 %, Nesterov, error feedback .9": muloco.but("topk-feedback", {**sparse, **feedback}),
                    "top 10 %, error feedback .95 alone": muloco.but(
                        "topk-feedback-alone", {**sparse, **feedback, "compression.error_decay": 0.95, **average}
                    ),
                },
            ),
            Study(
                "Overlap",
                f"What do tau > 0 and the merge alpha cost? MuLoCo, K = {fewer}, one fragment.",
                {
                    "tau = 0": half,
                    **{
                        f"tau = {delay}, alpha = {alpha:g}": delayed(delay, alpha)
                        for delay in (1, 5)
                        for alpha in (0.0, 0.5)
                    },
                },
            ),
            Study(
                "Primal averaging",
                "Is averaging at every step (GPA, arXiv 2512.17131) better than an outer step every H? One worker.",
                {
                    "MuLoCo K=1": self.by_workers["MuLoCo", 1],
                    "DiLoCo K=1": self.by_workers["DiLoCo", 1],
                    "GPA, AdamW inside": averaging("gpa", "GPA", {}),
                    "GPA, Muon inside": averaging("gpa-muon", "GPA (Muon)", {"optimizer.matrix.rule": "muon"}),
                },
            ),
        ]


def _with_workers(method: Method, workers: int) -> Setting:
    lr, momentum = OUTER[method][workers]
    fields = {
        "fault_tolerance.group_size": workers,
        "fault_tolerance.sync_steps": SYNC_STEPS,
        "outer_optimizer.lr": lr,
        "outer_optimizer.momentum": momentum,
    }
    return Setting(f"{method.lower()}-K{workers}", method, fields, METHODS[method][1])
