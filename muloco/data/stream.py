"""The sequences of one share of a prepared split."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from muloco.data.errors import DamagedCacheError
from muloco.data.prepared import Prepared


class Pairs(NamedTuple):
    """(input, label) pairs and how many tokens of the same document come before each input; arrays of one length."""

    inputs: np.ndarray
    labels: np.ndarray
    depth: np.ndarray


class PreparedStream:
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
        share, shares: this share (0 .. shares - 1) is documents share, share + shares, share + 2 * shares, ...
        seed: not negative.
        seq_len: at least 1.

    Raises:
        ValueError: no such split, or the share has no documents.
        DamagedCacheError: as `Prepared.open`.
    """

    def __init__(
        self,
        prepared: Prepared,
        split: str,
        *,
        share: int,
        shares: int,
        seed: int,
        seq_len: int,
        endless: bool = True,
        predict_bos: bool = False,
    ):
        self._prepared, self._split = prepared, split
        self._tokens, offsets = prepared.open(split)
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
        self._epoch, self._taken = 0, 0

    def next(self) -> Pairs:
        """The next sequence; raises DamagedCacheError as `sequence`."""
        while self._taken == self.sequences(self._epoch):
            self._epoch, self._taken = self._epoch + 1, 0
        self._taken += 1
        return self.sequence(self._epoch, self._taken - 1)

    def state(self) -> dict[str, Any]:
        """JSON values that say where it is."""
        return {"epoch": self._epoch, "taken": self._taken}

    def go_to(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` said. Raises ValueError for a place that there is not."""
        epoch, taken = state["epoch"], state["taken"]
        if epoch < 0 or not 0 <= taken <= self.sequences(epoch):
            raise ValueError(
                f"the data position is epoch {epoch}, {taken} sequences taken; "
                f"epochs count from 0, and this one has {self.sequences(epoch)} sequences"
            )
        self._epoch, self._taken = epoch, taken

    def sequences(self, epoch: int) -> int:
        """How many sequences start in an epoch: none in some, where an epoch is shorter than a sequence."""
        return self._sequences_before(epoch + 1) - self._sequences_before(epoch)

    def sequence(self, epoch: int, number: int) -> Pairs:
        """The sequence read as number 0 .. `sequences(epoch)` - 1 of an epoch, without going there: `seq_len` pairs,
        or fewer at the end of a stream that is not endless. Raises DamagedCacheError if a token is not in the
        vocabulary."""
        order, _, _ = self._layout(epoch)
        start = (self._sequences_before(epoch) + int(order[number])) * self._seq_len
        stop = start + self._seq_len if self._endless else min(start + self._seq_len, self._pairs)
        pieces = []
        while start < stop:
            epoch, place = divmod(start, self._pairs)
            pieces.append(self._read(epoch, place, min(place + stop - start, self._pairs)))
            start += len(pieces[-1][0])
        index, depth = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        following = (index + 1) % len(self._tokens)  # behind the last document's EOS comes a BOS, as behind any other
        pairs = Pairs(self._tokens[index], self._tokens[following], depth)
        if max(pairs.inputs.max(), pairs.labels.max()) >= self._prepared.vocab_size:
            name = f"{self._split}.tokens.npy"
            raise DamagedCacheError(self._prepared.folder, f"{name} holds a token that is not in the vocabulary")
        return pairs

    def _sequences_before(self, epoch: int) -> int:
        return -(-epoch * self._pairs // self._seq_len)

    def _read(self, epoch: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the inputs of pairs `start` to `stop` (exclusive) of an epoch are in the tokens, and their depth."""
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
