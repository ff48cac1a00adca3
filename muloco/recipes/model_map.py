"""Shared settings of the paper's runs: tables by model size, published hyperparameters, and the rules between them.

Steps and weight decay are in no table here: `muloco.resolve` derives them from flavor, batch and K by the paper's rules
(PAPER 2.2, 2.4). "PAPER n.m" is a section of docs/paper.md. Every value that a function here returns says whether it is
published, a rule, or interpolated from what is published.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from muloco.model.flavors import flavor
from muloco.recipes.base import LOCAL_BATCH
from muloco.sweeps.sweep import Given, Grid, Point

Method = Literal["DP Muon", "DP AdamW", "MuLoCo", "DiLoCo"]
CONFIGS: dict[Method, str] = {
    "DP Muon": "config/ddp/muon.py",
    "DP AdamW": "config/ddp/adamw.py",
    "MuLoCo": "config/diloco/2x_4gpu_muloco.py",
    "DiLoCo": "config/diloco/2x_4gpu_diloco.py",
}
METHODS: dict[str, Method] = {"dp-muon": "DP Muon", "dp-adamw": "DP AdamW", "muloco": "MuLoCo", "diloco": "DiLoCo"}
SIZES = ("150M", "416M", "914M", "1.76B", "3.1B")
WORKERS = (1, 2, 4, 8, 16)

# Fields that the names of all the paper's jobs have, so that a run has one name in whatever sweep it is
NAMED = ("model.flavor", "fault_tolerance.group_size", "training.global_batch_size", "optimizer.lr")

GPUS_PER_NODE = 8
SHARDED = ("914M", "1.76B", "3.1B", "15B")  # over the 8 GPUs of a node (PAPER 2.1); smaller ones are replicated

# GPUs of a run. Published: 128 at 3.1B, 8 at 416M with K = 8, 1024 of 15B at 2048 sequences, that is 2 sequences each,
# at which the time of a step is the same in all the paper's 15B runs (PAPER 2.1, 6.1). The other sizes lie between, so
# that all take some hours.
GPUS = {"150M": 8, "416M": 8, "914M": 32, "1.76B": 64, "3.1B": 128}
SEQUENCES_PER_GPU_15B = 2

LR_GRID = tuple(round(2 ** (-step / 2), 6) for step in range(30))
"""The paper's inner learning rates (PAPER 2.3): from 1 down by sqrt 2, to 6 digits."""


@dataclass(frozen=True)
class Published:
    """An inner learning rate that the paper's sources give. A method without outer steps has K = 0 here."""

    method: Method
    workers: int
    size: str
    lr: float
    source: str


PUBLISHED_LR = (
    Published("DP Muon", 0, "416M", 0.04728708, "names of the checkpoints at 512 sequences, PAPER 4.1"),
    Published("DP Muon", 0, "15B", 0.011049, "name of the checkpoint at 2048 sequences, PAPER 4.1"),
    Published("DP AdamW", 0, "416M", 0.00948683, "names of the checkpoints at 512 sequences, PAPER 4.1"),
    Published("DP AdamW", 0, "3.1B", 0.001381, "what the published ddp_baselines_h100.py rescales, at 256 sequences"),
    Published("MuLoCo", 1, "150M", 0.0625, "upper end of the range for K = 1, PAPER 4.2"),
    Published("MuLoCo", 8, "416M", 0.0625, "PAPER 4.1"),
    Published("MuLoCo", 16, "3.1B", 0.015625, "PAPER 4.1"),
    Published("DiLoCo", 8, "416M", 0.003906, "PAPER 4.1"),
    Published("DiLoCo", 16, "3.1B", 0.000691, "PAPER 4.1"),
)

# Least and greatest inner learning rate of MuLoCo with K = 1 over all sizes (PAPER 4.2)
MULOCO_K1_LR = (0.015625, 0.0625)

# Outer learning rate and momentum by K (PAPER 0, 4.1); those of 2 and 4 are not published
OUTER: dict[str, dict[int, tuple[float, float]]] = {
    "MuLoCo": {1: (0.7, 0.6), 8: (0.9, 0.8), 16: (1.0, 0.9)},
    "DiLoCo": {1: (0.7, 0.8), 8: (0.9, 0.9), 16: (1.0, 0.9)},
}

# Best batch in sequences by K, 0 without outer steps: at 3.1B (PAPER 4.3) and of the 15B runs (PAPER 4.1)
BATCH_3_1B: dict[Method, dict[int, int]] = {
    "DP Muon": {0: 512},
    "DP AdamW": {0: 256},
    "MuLoCo": {1: 256, 2: 512, 4: 512, 8: 1024, 16: 2048},
    "DiLoCo": {1: 256, 2: 512, 4: 512, 8: 512, 16: 1024},
}
BATCH_15B: dict[Method, dict[int, int]] = {
    "DP Muon": {0: 2048},
    "DP AdamW": {0: 1024},
    "MuLoCo": {1: 8192, 16: 4096},
    "DiLoCo": {1: 512, 16: 2048},
}


def point(method: Method, size: str, workers: int = 0, *, batch: int | None = None, lr: float | None = None) -> Point:
    """All that one of the paper's runs sets on top of its config.

    Args:
        workers: K; 0 for DP, which has no outer steps.
        batch: sequences of all workers; None: `best_batch`.
        lr: inner learning rate, chosen by a grid; None: `best_lr`.
    """
    sequences = best_batch(method, size, workers) if batch is None else batch
    number = sequences.value if isinstance(sequences, Given) else sequences
    values: dict[str, Any] = {"model.flavor": size}
    if workers:
        values["fault_tolerance.group_size"] = workers
    values["training.global_batch_size"] = sequences
    values["optimizer.lr"] = best_lr(method, size, workers) if lr is None else lr
    if workers:
        values |= outer(method, workers)
    return {**values, **placement(size, workers, number)}


def grid(name: str, method: Method, points: Sequence[Point], *, config: str | None = None) -> Grid:
    """Runs of a method, by its config or another one."""
    return Grid(name=name, config=config or CONFIGS[method], points=points, named=NAMED)


def best_lr(method: Method, size: str, workers: int = 0) -> Given:
    """The published inner learning rate, or one interpolated from the nearest published K and, there, nearest size.

    It falls by sqrt 2 with every doubling of the parameters (PAPER 4.2) and is snapped to the grid; MuLoCo with K = 1
    stays within the published range. It does not follow the batch, for which the paper gives no rule: sweep around it.
    """
    there = [row for row in PUBLISHED_LR if row.method == method]
    nearest = min(there, key=lambda row: (_apart(row.workers, workers), abs(_doublings(row.size, size))))
    if (nearest.workers, nearest.size) == (workers, size):
        return Given(nearest.lr, f"published: {nearest.source}")
    lr = LR_GRID[grid_step(nearest.lr / math.sqrt(2) ** _doublings(nearest.size, size))]
    run = f"{method}{f' K={nearest.workers}' if nearest.workers else ''} at {nearest.size}"
    rule = "1/sqrt 2 a doubling of size, on the grid"
    origin = f"interpolated: from {nearest.lr:g} of {run} ({nearest.source}), {rule}"
    if method == "MuLoCo" and workers == 1:
        least, greatest = MULOCO_K1_LR
        if not least <= lr <= greatest:
            lr = min(max(lr, least), greatest)
            origin += f", and within the published {least:g} to {greatest:g} (PAPER 4.2)"
    return Given(lr, origin)


def around(lr: Given, steps: int) -> list[Given]:
    """A learning rate and its neighbours on the grid up to so many steps away, highest first."""
    middle = grid_step(lr.value)
    return [
        lr if index == middle else Given(LR_GRID[index], f"grid: {middle - index:+d} from {lr.value:g}, {lr.origin}")
        for index in range(max(0, middle - steps), min(len(LR_GRID), middle + steps + 1))
    ]


def grid_step(lr: float) -> int:
    """Index of the learning rate of the grid that is nearest in proportion."""
    return min(range(len(LR_GRID)), key=lambda index: abs(math.log(LR_GRID[index] / lr)))


def best_batch(method: Method, size: str, workers: int = 0) -> Given:
    """Sequences of all workers in a step: published at 3.1B and 15B; smaller sizes take that of 3.1B."""
    if size == "15B":
        return Given(BATCH_15B[method][workers], "published: the paper's 15B run, PAPER 4.1")
    batch = BATCH_3_1B[method][workers]
    if size == "3.1B":
        return Given(batch, "published: best at 3.1B, PAPER 4.3")
    return Given(batch, "interpolated: best at 3.1B, PAPER 4.3; for K = 1 the weight decays of 2.4 say the same")


def outer(method: Method, workers: int) -> Point:
    """Outer learning rate and momentum; for K = 2 and 4 between those of 1 and 8, linear in log K, to one decimal."""
    known = OUTER[method]
    if workers in known:
        lr, momentum = known[workers]
        origin = "published: PAPER 4.1"
    else:
        share = math.log2(workers) / math.log2(8)
        lr, momentum = (round(a + share * (b - a), 1) for a, b in zip(known[1], known[8], strict=True))
        origin = "interpolated: between K = 1 and 8, linear in log K, to one decimal"
    return {"outer_optimizer.lr": Given(lr, origin), "outer_optimizer.momentum": Given(momentum, origin)}


def error_feedback(method: Method, workers: int, on: bool, *, outer_lr: float | None = None) -> Point:
    """Error feedback on or off, and the outer learning rate that goes with it.

    The paper's code applies the outer learning rate twice to what error feedback compresses: to the pseudogradient
    before it is compressed, and in the outer step; tensors that travel as fp32 have it once (PAPER 3.3, 11). It does
    both here, so the runs with error feedback follow the published path.
    """
    rate = outer(method, workers)["outer_optimizer.lr"].value if outer_lr is None else outer_lr
    twice = "published: the outer rate, which the paper's code also applies before it compresses, PAPER 3.3"
    return {
        "compression.error_feedback": on,
        "outer_optimizer.lr": Given(rate, "published: PAPER 4.1" if outer_lr is None else "published: PAPER 3.5"),
        "compression.error_gain": Given(rate, twice) if on else 1.0,
    }


def reduced(codec: Point) -> Point:
    """How the mean of a codec is computed: exactly for top-k; encoded once more, with one codebook a tensor or row, for
    the quantizers, as the paper's launchers simulate it (PAPER 3.3, 11)."""
    exact = codec["compression.kind"] == "topk"
    return {"compression.reduce": "gather" if exact else "requantize"}


def placement(size: str, workers: int, batch: int) -> Point:
    """Parallelism inside a worker, and the local batch.

    A run has `GPUS`, or as many as its workers need at least: one each, or a node where the size is sharded; no more
    than sequences in a step. The local batch is twice that of `LOCAL_BATCH`, as in the published launchers, and at most
    a rank's share of the batch.
    """
    total = batch // SEQUENCES_PER_GPU_15B if size == "15B" else min(GPUS[size], batch)
    shards = _shards(size, workers)
    ranks = max(shards.value, total // max(1, workers))
    share = batch // (ranks * max(1, workers))
    return {
        "parallelism.data_parallel_shard_degree": shards,
        "parallelism.data_parallel_replicate_degree": Given(ranks // shards.value, f"rule: {total} GPUs at {size}"),
        "training.local_batch_size": Given(
            max(1, min(2 * LOCAL_BATCH[size], share)),
            "rule: the launchers' (PAPER 2.3), at most a rank's share of the batch",
        ),
    }


def _shards(size: str, workers: int) -> Given:
    if size == "3.1B" and workers == 0:
        return Given(16, "published: 16 x 8 GPUs in ddp_baselines_h100.py")
    return Given(GPUS_PER_NODE if size in SHARDED else 1, "rule: sharded over a node from 914M on, PAPER 2.1")


def workers_on(nodes: int, per_node: int, *, nodes_per_worker: int = 1) -> int:
    """K of so many nodes, with so many workers on each or so many nodes for each."""
    return nodes * per_node // nodes_per_worker


def _doublings(here: str, there: str) -> float:
    """How often the parameters double from one size to another."""
    return math.log2(flavor(there).parameters / flavor(here).parameters)


def _apart(k: int, other: int) -> float:
    return abs(math.log2(max(1, k) / max(1, other)))
