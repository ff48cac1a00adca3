"""Assigns each sequence to a source of a mixture."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

_TURN = 2**64
_STEP = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: its multiples spread most evenly on a circle of 2^64


class Schedule:
    """Sources by number, so that their shares of any run of sequences follow the weights closely.

    Sequence n stands at (start + n / golden ratio) on a circle on which every source holds an arc as long as its
    weight; the start is random by (seed, share), so that shares do not visit the same source at the same time. After n
    sequences a source has had n times its weight, up to O(log n).

    The weights are above 0 and need not sum to 1; seed and share are not negative. Raises ValueError if there are no
    weights, or one is not above 0.
    """

    def __init__(self, weights: Sequence[float], *, seed: int, share: int):
        if not weights or not all(0 < weight < math.inf for weight in weights):
            raise ValueError(f"the weights of a mixture must be above 0; got {tuple(weights)}")
        total = math.fsum(weights)
        self._ends = [int(_TURN * (end / total)) for end in accumulate(weights)]
        self._ends[-1] = _TURN
        self._start = int(np.random.PCG64([seed, share, 2]).random_raw())

    def source(self, number: int) -> int:
        """Returns the source that sequence `number` comes from."""
        return bisect_right(self._ends, (self._start + number * _STEP) % _TURN)

    def counts(self, sequences: int) -> list[int]:
        """How many of the first `sequences` sequences each source gives."""
        counts = Counter(map(self.source, range(sequences)))
        return [counts[source] for source in range(len(self._ends))]
