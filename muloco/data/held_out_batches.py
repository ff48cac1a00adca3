"""Division of the held-out set into batches, and of the batches among the workers. This module needs only Python."""

import math


def held_out_batches(sequences: int, together: int) -> int:
    """Returns the number of batches that hold `sequences` sequences, if the ranks of a worker together take `together`
    at a time."""
    return math.ceil(sequences / together)


def shared_batches(batches: int, place: int, places: int) -> range:
    """Returns the batches that the worker at `place`, of `places`, computes of the anchor. Every batch belongs to
    exactly one place."""
    return range(place, batches, places)


def own_batches(batches: int, worker: int, workers: int) -> range:
    """Returns the batches on which a worker validates its own weights: at least one. Together the workers have all."""
    return shared_batches(batches, worker % batches, workers)
