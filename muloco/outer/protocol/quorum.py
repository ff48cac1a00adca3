"""The identity of a worker, its quorum policy, and its view of the progress of the run. This module needs no torch."""

from collections.abc import Callable, Collection
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WorkerIdentity:
    """Identifies a worker among those of a run."""

    run: str = ""
    """Name of the run; workers of other runs do not take part."""
    worker: int = 0
    """Number of this worker, from 0."""
    workers: int = 1
    """K, the number of workers that begin a run together."""


@dataclass(frozen=True, kw_only=True)
class QuorumPolicy:
    """How many workers have to meet, and how long they wait for each other: fields of `fault_tolerance`."""

    min_replica_size: int = 1
    """Number of workers that begin without the others once those are late."""
    straggler_timeout_seconds: float = 1200.0
    """Seconds after which workers that have not come to the start are late."""
    quorum_timeout_seconds: float = 1800.0
    """Seconds after which a worker gives up waiting for enough others."""


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """Functions by which a worker learns and records the progress of its run. The defaults know nothing of other
    workers."""

    last_committed_step: Callable[[], int] = lambda: 0
    """Returns the step that the run is known to have reached. Workers behind it can only join others."""
    committed_without_me: Callable[[int, int], bool] = lambda step, fragment: False
    """Whether the others are known to have committed the round of a fragment after a step, or a later one, without this
    worker."""
    record: Callable[[int, int, Collection[int]], None] = lambda step, fragment, members: None
    """Called for each round that this worker has committed, with its step, its fragment and its members."""
