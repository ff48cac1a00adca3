"""The endless token stream of one share of a prepared split, addressed by (epoch, place) and free of any state."""

import numpy as np


class ShareStream:
    """What one share reads: every `shares`-th document, in a new order each epoch, as (input, label) pairs end to end.

    A document of n tokens gives n - 1 pairs: its tokens but the last as inputs, its tokens but the first as labels, so
    no label is of another document. The order of an epoch is a permutation fixed by (seed, epoch).

    Args:
        offsets: int64 [documents + 1], as in `muloco.data.prepared`.
        share, shares: this share (0 .. shares - 1) is documents share, share + shares, share + 2 * shares, ...
        seed: not negative.

    Raises:
        ValueError: `seed` is negative, or the share has no documents.
    """

    def __init__(self, offsets: np.ndarray, *, share: int, shares: int, seed: int):
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must not be negative")
        self._starts = offsets[:-1][share::shares]
        self._lengths = np.diff(offsets)[share::shares] - 1
        self._seed = seed
        self._laid_out: tuple[int, tuple[np.ndarray, np.ndarray]] | None = None
        self.length = int(self._lengths.sum())
        """Number of pairs in every epoch."""
        if self.length == 0:
            raise ValueError(
                f"share {share} of {shares} has no documents: the split has {len(offsets) - 1}; "
                "take fewer workers x data-parallel ranks, or a larger corpus"
            )

    def read(self, epoch: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Pairs `start` to `stop` (exclusive, clipped to the epoch's end) of an epoch.

        Returns:
            index: int64 [pairs], where in the tokens each input is; its label is the token after it.
            depth: int64 [pairs], how many tokens of the same document come before each input.
        """
        starts, begins = self._layout(epoch)
        place = np.arange(start, min(stop, self.length))
        document = np.searchsorted(begins, place, side="right") - 1
        depth = place - begins[document]
        return starts[document] + depth, depth

    def _layout(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Per document, in the epoch's order: its first token, and its first pair in the epoch (both int64)."""
        if self._laid_out is None or self._laid_out[0] != epoch:
            # Sorted draws of a bare bit generator: numpy promises these never change, unlike Generator.permutation.
            draws = np.random.PCG64([self._seed, epoch]).random_raw(len(self._lengths))
            order = np.argsort(draws, kind="stable")
            lengths = self._lengths[order]
            self._laid_out = epoch, (self._starts[order], np.cumsum(lengths) - lengths)
        return self._laid_out[1]
