"""The runs of `muloco reproduce`: settings of the main comparison, of the claims about batches, bits and fragments, and
of the studies."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Method = Literal["DP Muon", "DP AdamW", "MuLoCo", "DiLoCo", "GPA", "GPA (Muon)"]
CONFIGS: dict[Method, str] = {
    "DP Muon": "config/laptop/muon.py",
    "DP AdamW": "config/laptop/adamw.py",
    "MuLoCo": "config/laptop/muloco.py",
    "DiLoCo": "config/laptop/diloco.py",
    "GPA": "config/laptop/gpa.py",
    "GPA (Muon)": "config/laptop/gpa.py",
}
RATES: dict[Method, float] = {
    "DP Muon": 0.16,
    "DP AdamW": 0.032,
    "MuLoCo": 0.04,
    "DiLoCo": 0.032,
    "GPA": 0.032,
    "GPA (Muon)": 0.04,
}
"""Where the searches for inner learning rates begin, at the usual batch; it follows the root of the batch."""
OUTER: dict[Method, dict[int, tuple[float, float]]] = {
    "MuLoCo": {1: (0.7, 0.6), 2: (0.8, 0.7), 4: (0.8, 0.7), 8: (0.9, 0.8)},
    "DiLoCo": {1: (0.7, 0.8), 2: (0.8, 0.8), 4: (0.8, 0.9), 8: (0.9, 0.9)},
}
"""Outer learning rate and momentum by K: PAPER 4.1 for 1 and 8, between them as in jobs/muloco_paper."""
WARMUP_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class Size:
    """The size of a reproduction: which runs it has, and how long they are."""

    folder: str
    """Default folder."""
    seq_len: int
    batch: int
    """Sequences of all workers in an inner step."""
    steps: int
    """Inner steps at that batch. Other batches take as many tokens."""
    workers: tuple[int, ...]
    """The K compared; the largest one is that of the claims about bits and fragments, and of the studies."""
    seeds: tuple[int, ...]
    """The first one is that of the searches for learning rates."""
    batches: tuple[int, ...]
    """Batches at which K = 1 is tried, besides `batch`."""
    held_out: int
    """Sequences of the held-out set."""
    extensions: int
    """How often a search goes one factor of 2 on, where the best rate is the first or the last tried."""
    studies: bool
    flavor: str = "tiny"

    @property
    def tokens(self) -> int:
        """Number of tokens of a run."""
        return self.seq_len * self.batch * self.steps

    @property
    def checkpoint_step(self) -> int:
        """Step of the checkpoint of the data-parallel runs from which the pseudogradients are studied."""
        return self.steps // 2


FULL = Size(
    folder="outputs/paper",
    seq_len=256,
    batch=16,
    steps=300,
    workers=(1, 2, 4, 8),
    seeds=(1, 2, 3),
    batches=(4, 8, 32),
    held_out=64,
    extensions=2,
    studies=True,
)
QUICK = Size(
    folder="outputs/paper-quick",
    seq_len=128,
    batch=16,
    steps=150,
    workers=(1, 4),
    seeds=(1, 2, 3),
    batches=(),
    held_out=32,
    extensions=0,
    studies=False,
)
SYNC_STEPS = 30
"""H, as in the paper."""


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
        last = size.workers[-1]
        self.baselines = [self._baseline("DP AdamW"), self._baseline("DP Muon")]
        self.by_workers = {
            (method, workers): self._workers(method, workers) for workers in size.workers for method in OUTER
        }
        self.by_batch = [self._batch(method, batch) for batch in size.batches for method in OUTER]
        self.compressed = [
            self._like((method, last), "4bit", {"compression.kind": "statistical", "compression.bits": 4})
            for method in OUTER
        ]
        self.streaming = [self._like((method, last), "J3", {"fault_tolerance.num_fragments": 3}) for method in OUTER]
        self.studies = self._studies(last) if size.studies else []

    def stages(self) -> list[list[Setting]]:
        """All settings in the order of their importance."""
        studied = dict.fromkeys(setting for study in self.studies for setting in study.rows.values())
        return [*self._claimed(), [setting for setting in studied if setting not in self.claimed()]]

    def claimed(self) -> list[Setting]:
        """Returns the settings that the claims are about."""
        return [setting for stage in self._claimed() for setting in stage]

    def at_batches(self) -> dict[tuple[Method, int], Setting]:
        """Returns the settings of K = 1, by method and batch."""
        usual = {(method, self.size.batch): self.by_workers[method, 1] for method in OUTER}
        return {**usual, **{(one.method, one.fields["training.global_batch_size"]): one for one in self.by_batch}}

    def settings(self) -> list[Setting]:
        """Returns all settings, each once."""
        return list(dict.fromkeys(setting for stage in self.stages() for setting in stage))

    def _claimed(self) -> list[list[Setting]]:
        return [[*self.baselines, *self.by_workers.values()], [*self.compressed, *self.streaming], self.by_batch]

    def _baseline(self, method: Method) -> Setting:
        name = method.lower().replace(" ", "-")
        checkpoints = {
            "checkpoint.enable": True,
            "checkpoint.interval": self.size.checkpoint_step,
            "checkpoint.keep": 0,
        }
        return Setting(name, method, checkpoints, RATES[method])

    def _workers(self, method: Method, workers: int) -> Setting:
        lr, momentum = OUTER[method][workers]
        fields = {
            "fault_tolerance.group_size": workers,
            "fault_tolerance.sync_steps": SYNC_STEPS,
            "outer_optimizer.lr": lr,
            "outer_optimizer.momentum": momentum,
        }
        return Setting(f"{method.lower()}-K{workers}", method, fields, RATES[method])

    def _batch(self, method: Method, batch: int) -> Setting:
        base = self.by_workers[method, 1]
        steps = self.size.steps * self.size.batch // batch
        fields = {
            "training.global_batch_size": batch,
            "training.steps": steps,
            "lr_scheduler.warmup_steps": round(WARMUP_SHARE * steps),
            "validation.freq": steps,
        }
        rate = base.first_rate * math.sqrt(batch / self.size.batch)
        return Setting(f"{base.name}-B{batch}", method, {**base.fields, **fields}, float(f"{rate:.2g}"))

    def _like(self, base: tuple[Method, int], name: str, fields: Mapping[str, Any]) -> Setting:
        found = self.by_workers[base]
        return Setting(f"{found.name}-{name}", found.method, {**found.fields, **fields}, found.first_rate, like=found)

    def _gpa(self, method: Method) -> Setting:
        """One worker; averages over some H inner steps, as its derived mu_x says."""
        fields: dict[str, Any] = {"fault_tolerance.group_size": 1, "fault_tolerance.sync_steps": SYNC_STEPS}
        if method == "GPA (Muon)":
            fields["optimizer.matrix.rule"] = "muon"
        return Setting("gpa" if method == "GPA" else "gpa-muon", method, fields, RATES[method])

    def _studies(self, workers: int) -> list[Study]:
        base: tuple[Method, int] = ("MuLoCo", workers)
        muloco = self.by_workers[base]
        fewer: tuple[Method, int] = ("MuLoCo", max(k for k in self.size.workers if k < workers))

        def bits(codec: str, feedback: bool) -> Setting:
            chosen = {"compression.kind": codec, "compression.bits": 2, "compression.error_feedback": feedback}
            return self._like(base, f"{codec}-2bit{'-feedback' * feedback}", chosen)

        def sparse(name: str, more: Mapping[str, Any]) -> Setting:
            chosen = {"compression.kind": "topk", "compression.fraction": 0.1, "compression.reduce": "gather"}
            return self._like(base, name, {**chosen, **more})

        def delayed(delay: int, alpha: float) -> Setting:
            chosen = {"fault_tolerance.fragment_sync_delay": delay, "fault_tolerance.fragment_update_alpha": alpha}
            return self._like(fewer, f"tau{delay}-alpha{alpha:g}", chosen)

        average = {"outer_optimizer.lr": 1.0, "outer_optimizer.momentum": 0.0}
        feedback = {"compression.error_feedback": True}
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
                    "fp32, plain average": self._like(base, "average", average),
                    "top 10 %, Nesterov": sparse("topk", {}),
                    "top 10 %, Nesterov, error feedback .9": sparse("topk-feedback", feedback),
                    "top 10 %, error feedback .95 alone": sparse(
                        "topk-feedback-alone", {**feedback, "compression.error_decay": 0.95, **average}
                    ),
                },
            ),
            Study(
                "Overlap",
                f"What do tau > 0 and the merge alpha cost? MuLoCo, K = {fewer[1]}, one fragment.",
                {
                    "tau = 0": self.by_workers[fewer],
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
                    "GPA, AdamW inside": self._gpa("GPA"),
                    "GPA, Muon inside": self._gpa("GPA (Muon)"),
                },
            ),
        ]
