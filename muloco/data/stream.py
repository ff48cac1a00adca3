"""The sequences of one share of a prepared split, addressed by (epoch, number) and free of any state."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np


class Pairs(NamedTuple):
    """(input, label) pairs and how many tokens of the same document come before each input; arrays of one length."""

    inputs: np.ndarray
    labels: np.ndarray
    depth: np.ndarray


class ShareStream:
    """What one share reads: the pairs of its documents, epoch after epoch, cut into sequences in a shuffled order.

    A document of n tokens gives n - 1 (input, label) pairs: its tokens but the last as inputs, its tokens but the first
    as labels, so no label is of another document. With `predict_bos` it gives n pairs: its EOS is an input
    too, whose label is the BOS of the document that follows in the stream. An epoch is every `shares`-th document end
    to end, in an order fixed by (seed, epoch).

    The epochs, end to end, are cut into sequences of `seq_len` pairs. A sequence belongs to the epoch it starts in and
    goes on into the next where it crosses the end, so nothing is lost and nothing read twice. The sequences of an epoch
    are numbered in a second order fixed by (seed, epoch). If not `endless`, there is only epoch 0, and the sequence at
    its end stops there.

    Args:
        offsets: int64 [documents + 1], as in `muloco.data.prepared`.
        share, shares: this share (0 .. shares - 1) is documents share, share + shares, share + 2 * shares, ...
        seed: not negative.
        seq_len: at least 1.
        predict_bos: see above.

    Raises:
        ValueError: `seed` is negative, or the share has no documents.
    """

    def __init__(
        self,
        offsets: np.ndarray,
        *,
        share: int,
        shares: int,
        seed: int,
        seq_len: int,
        endless: bool = True,
        predict_bos: bool = False,
    ):
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must not be negative")
        self._starts = np.array(offsets[:-1][share::shares])
        self._lengths = offsets[1:][share::shares] - self._starts - (0 if predict_bos else 1)
        self._pairs = int(self._lengths.sum())
        if self._pairs == 0:
            raise ValueError(
                f"share {share} of {shares} has no documents: the split has {len(offsets) - 1}; "
                "take fewer workers x data-parallel ranks, or a larger corpus"
            )
        self._seed = seed
        self._seq_len = seq_len
        self._endless = endless
        self._layout = lru_cache(maxsize=2)(self._lay_out)  # an epoch, and the one its last sequence goes on into

    def sequences(self, epoch: int) -> int:
        """How many sequences start in an epoch: none in some, where an epoch is shorter than a sequence."""
        return self._sequences_before(epoch + 1) - self._sequences_before(epoch)

    def sequence(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The sequence read as number 0 .. `sequences(epoch)` - 1 of an epoch.

        Returns:
            index: int64 [seq_len, or fewer at the end of a stream that is not endless], where in the tokens each input
                is; its label is the token after it, and BOS after the last token of all.
            depth: int64, as long, how many tokens of the same document come before each input.
        """
        order, _, _ = self._layout(epoch)
        start = (self._sequences_before(epoch) + int(order[number])) * self._seq_len
        stop = start + self._seq_len if self._endless else min(start + self._seq_len, self._pairs)
        pieces = []
        while start < stop:
            epoch, place = divmod(start, self._pairs)
            pieces.append(self._read(epoch, place, min(place + stop - start, self._pairs)))
            start += len(pieces[-1][0])
        index, depth = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        return index, depth

    def _sequences_before(self, epoch: int) -> int:
        return -(-epoch * self._pairs // self._seq_len)

    def _read(self, epoch: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Index and depth of pairs `start` to `stop` (exclusive) of an epoch."""
        _, starts, begins = self._layout(epoch)
        place = np.arange(start, stop)
        document = np.searchsorted(begins, place, side="right") - 1
        depth = place - begins[document]
        return starts[document] + depth, depth

    def _lay_out(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The order of the epoch's sequences; per document, in the epoch's order, its first token and first pair."""
        documents = permutation(len(self._lengths), [self._seed, epoch])
        lengths = self._lengths[documents]
        order = permutation(self.sequences(epoch), [self._seed, epoch, 1])
        return order, self._starts[documents], np.cumsum(lengths) - lengths


def permutation(count: int, entropy: list[int]) -> np.ndarray:
    """An order of 0 .. count - 1 that never changes for the same entropy (numbers that are not negative)."""
    # Sorted draws of a bare bit generator: numpy promises these never change, unlike Generator.permutation.
    return np.argsort(np.random.PCG64(entropy).random_raw(count), kind="stable")
