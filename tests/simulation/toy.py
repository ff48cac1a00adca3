"""The problem that simulated workers train: a few numbers that drift, differently at each position of each worker's
data, so that a window that is counted twice or lost changes the sum."""

from dataclasses import dataclass
from functools import cache

import numpy
import torch

from muloco.outer.codecs import build_codec
from muloco.outer.codecs.compression import Compression
from tests.simulation.costs import Costs

SHAPES = {"a.0": (3,), "a.1": (2, 2), "b.0": (2, 3), "b.1": ()}
FRAGMENTS = {1: [["a.0", "a.1", "b.0", "b.1"]], 2: [["a.0", "a.1", "b.1"], ["b.0"]]}
LEARNING_RATE, MOMENTUM = 0.7, 0.6


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of a run."""

    workers: int = 2
    interval: int = 2
    fragments: int = 1
    delay: int = 0
    rounds: int = 3
    """Intervals of inner steps."""
    compressed: bool = False
    """Whether 4-bit pseudogradients with error feedback travel."""
    save_every: int = 0
    """Inner steps between checkpoints; 0: none."""
    costs: Costs = Costs()
    ranks: int = 1
    """Ranks of each worker."""
    hasty: bool = False
    """Whether inner steps may take less time than a thread needs to begin."""
    shares: bool = False
    """Whether the workers share work after each mean that they apply, as validation does."""
    least: int = 1
    """Fewest workers that make a round (`fault_tolerance.min_replica_size`)."""

    @property
    def needs_majority(self) -> bool:
        """Whether a round needs more than half of all workers, so that two groups cannot both commit one."""
        return 2 * self.least > self.workers

    @property
    def steps(self) -> int:
        return self.interval * self.rounds

    def compression(self) -> Compression | None:
        if not self.compressed:
            return None
        return Compression(codec=build_codec("linear", bits=4), error_feedback=True)


@cache
def _all_drifts(worker: int, rank: int) -> numpy.ndarray:
    size = sum(int(numpy.prod(shape)) for shape in SHAPES.values())
    return numpy.random.default_rng(worker + 1000 * rank).normal(0, 0.1, (4096, size)).astype(numpy.float32)


def drift(worker: int, position: int, rank: int = 0, spoiled: float | None = None) -> numpy.ndarray:
    """Returns what an inner step adds to all parameters of a rank: fp32, in the order of `SHAPES`. If it is `spoiled`,
    one of them gets this value."""
    change = _all_drifts(worker, rank)[position]
    if spoiled is None:
        return change
    change = change.copy()
    change[position % len(change)] = spoiled
    return change


@cache
def places() -> dict[str, slice]:
    """Where each parameter is in the vector of all."""
    found, start = {}, 0
    for name, shape in SHAPES.items():
        size = int(numpy.prod(shape))
        found[name] = slice(start, start + size)
        start += size
    return found


@cache
def fragment_places(fragments: int) -> list[numpy.ndarray]:
    """Indices of each fragment's elements in the vector of all."""
    return [
        numpy.concatenate([numpy.arange(places()[name].start, places()[name].stop) for name in names])
        for names in FRAGMENTS[fragments]
    ]


def start() -> numpy.ndarray:
    """Where every worker begins: fp32."""
    size = sum(int(numpy.prod(shape)) for shape in SHAPES.values())
    return numpy.random.default_rng(10**6).normal(0, 1, size).astype(numpy.float32)


def parameters(vector: numpy.ndarray) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Returns a tensor with these values, and the parameters as views of it."""
    flat = torch.from_numpy(vector.copy())
    return flat, {name: flat[place].view(SHAPES[name]) for name, place in places().items()}
