"""The statistics of a sync: metrics files, TensorBoard, W&B and the table in docs/outer-loop.md follow from one table.
This module needs no torch."""

from collections.abc import Callable
from dataclasses import dataclass

from muloco.outer.protocol.header import as_hex


@dataclass(frozen=True, kw_only=True)
class Sync:
    """The results of one sync, as one rank sees them."""

    fragment: int
    weights: dict[int, int]
    """Inner steps that each worker that took part contributed, by worker."""
    attempts: int
    """Number of attempts that the round took; more than one if a worker was lost."""
    bytes_sent: int
    """Bytes that this rank sent to other workers."""
    bytes_ring: int
    """Bytes that it would have sent in an fp32 ring all-reduce of the same tensors."""
    seconds_waited: float
    """Seconds for which the inner steps stood still."""
    seconds_hidden: float
    """Seconds of the round in parallel with inner steps."""
    digest: int
    """64-bit checksum of this rank's part of the new anchor."""
    own_square: float
    """Sum of squares of this worker's pseudogradient, over this rank's part."""
    mean_square: float
    """Sum of squares of the mean over the workers, over this rank's part."""
    product: float
    """Sum of products of this worker's pseudogradient and the mean, over this rank's part."""


Value = int | float | str | dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """A value that a worker reports of each sync."""

    name: str
    kind: type
    """Type of the value: int, float (any number), str or dict. TensorBoard and W&B show only numbers."""
    of: Callable[[Sync], Value]
    """Returns the value for a whole worker."""
    summed: tuple[str, ...] = ()
    """Fields of `Sync` that are added up over the ranks of a worker for it; all other fields are those of rank 0."""
    unit: str = ""
    doc: str
    required: bool = False
    """Whether readers of metrics rely on it: a line without it is not complete."""


def _cosine(sync: Sync) -> float:
    squares = sync.own_square * sync.mean_square
    return sync.product / squares**0.5 if squares else 0.0


STATISTICS = (
    Statistic(
        name="fragment",
        kind=int,
        of=lambda sync: sync.fragment,
        doc="fragment to which the mean was applied, after the inner step `step`",
        required=True,
    ),
    Statistic(
        name="participants",
        kind=int,
        of=lambda sync: len(sync.weights),
        unit="workers",
        doc="number of workers that took part",
        required=True,
    ),
    Statistic(
        name="attempts",
        kind=int,
        of=lambda sync: sync.attempts,
        doc="number of attempts that the round took: above 1 if a worker was lost on the way",
    ),
    Statistic(
        name="bytes_sent",
        kind=float,
        of=lambda sync: sync.bytes_sent,
        summed=("bytes_sent",),
        unit="bytes",
        doc="bytes that this worker sent to others: without compression 2 (K - 1) / K of the fragment in fp32, and a "
        "few hundred bytes",
        required=True,
    ),
    Statistic(
        name="bytes_ring",
        kind=float,
        of=lambda sync: sync.bytes_ring,
        summed=("bytes_ring",),
        unit="bytes",
        doc="bytes that a ring all-reduce of the fragment in fp32 would have sent",
    ),
    Statistic(
        name="seconds_waited",
        kind=float,
        of=lambda sync: sync.seconds_waited,
        unit="s",
        doc="time for which inner steps stood still",
        required=True,
    ),
    Statistic(
        name="seconds_hidden",
        kind=float,
        of=lambda sync: sync.seconds_hidden,
        unit="s",
        doc="time of the round in parallel with inner steps",
    ),
    Statistic(
        name="pseudogradient_norm",
        kind=float,
        of=lambda sync: sync.own_square**0.5,
        summed=("own_square",),
        doc="norm of this worker's pseudogradient",
    ),
    Statistic(
        name="mean_norm",
        kind=float,
        of=lambda sync: sync.mean_square**0.5,
        summed=("mean_square",),
        doc="norm of the mean pseudogradient",
    ),
    Statistic(
        name="cosine",
        kind=float,
        of=_cosine,
        summed=("own_square", "mean_square", "product"),
        unit="-1 to 1",
        doc="cosine between the two: 1 where all workers agree, around 1/sqrt(K) where they have nothing in common",
    ),
    Statistic(
        name="weights",
        kind=dict,
        of=lambda sync: {str(worker): weight for worker, weight in sync.weights.items()},
        unit="inner steps",
        doc="inner steps that each worker contributed, by worker",
    ),
    Statistic(
        name="digest",
        kind=str,
        of=lambda sync: as_hex(sync.digest),
        summed=("digest",),
        doc="checksum of the new anchor, which has to be equal on all workers",
        required=True,
    ),
)
SUMMED = tuple(dict.fromkeys(name for statistic in STATISTICS for name in statistic.summed))
"""Fields of `Sync` that are added up over the ranks of a worker."""
