"""How the held-out set is cut into batches, and who computes which of them. Needs nothing but Python."""

import math


def held_out_batches(sequences: int, together: int) -> int:
    """Batches that hold so many sequences, if all ranks of a worker together take `together` sequences at a time."""
    return math.ceil(sequences / together)


def shared_batches(batches: int, place: int, places: int) -> range:
    """The batches of the worker at one of several places: every batch belongs to exactly one of them."""
    return range(place, batches, places)


def own_batches(batches: int, worker: int, workers: int) -> range:
    """The batches on which a worker validates its own weights: at least one, and together the workers have all."""
    return shared_batches(batches, worker % batches, workers)
