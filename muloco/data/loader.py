"""The data loader: batches of shuffled sequences from one share of a prepared split; can stop and resume anywhere."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from muloco._torchtitan import IGNORE_INDEX, BaseDataLoader
from muloco.data.prepared import read_prepared
from muloco.data.stream import ShareStream

Batch = tuple[dict[str, torch.Tensor], torch.Tensor]
Sequence = tuple[np.ndarray, np.ndarray]
"""Index and depth of its pairs, as `ShareStream.sequence` returns them."""


class PackedDataLoader(BaseDataLoader):
    """Batches of packed documents for one data-parallel rank of one worker.

    The documents are dealt round-robin to `workers * dp_world_size` shares, of which this loader reads number
    `worker * dp_world_size + dp_rank`: K workers of one rank read what one worker of K ranks reads. Each row is the
    next sequence of `ShareStream`. These are shuffled, so that a batch is of many documents even where one is longer.

    Iterating yields `({"input": int64 [B, L], "positions": int64 [B, L]}, labels int64 [B, L])`. Positions count from
    the document's start, or from the row's start where a row starts inside a document: always below L.

    An infinite loader starts the next epoch in the middle of a batch if need be, and every label counts. A finite one
    stops after one epoch, and then is back at the start; its one row shorter than L, and the rows missing from its last
    batch, are filled up with EOS inputs, `IGNORE_INDEX` labels and positions from 0. `iter()` goes on from the current
    position; to read again the front of a finite split, build a new loader.

    Args:
        dp_world_size, dp_rank: data-parallel ranks inside this worker, and which of them this is.
        tokenizer: unused, the folder holds tokens; torchtitan passes it to every loader.
        seq_len, local_batch_size: L and B.

    Raises:
        ValueError: no such split; worker, rank, seed or sizes out of range; a share without documents.
        FileNotFoundError, DamagedCacheError: as `muloco.data.prepared.read_prepared`.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        folder: str
        """Prepared folder, as `muloco.data.prepare.prepare` returns it."""

        split: str
        """`train` or `validation`."""

        worker: int = 0
        """This worker's number. Leave it 0 of 1 where every worker shall read the same, as in validation."""

        workers: int = 1
        """Number of workers among which the documents are divided."""

        infinite: bool = True
        """Start over when all documents were read, instead of stopping."""

        seed: int
        """Fixes the order of the documents and of the sequences in every epoch; not negative."""

    def __init__(
        self,
        config: Config,
        *,
        dp_world_size: int,
        dp_rank: int,
        tokenizer: Any,
        seq_len: int,
        local_batch_size: int,
        **kwargs: Any,
    ):
        for name, value, count in (
            ("worker", config.worker, config.workers),
            ("dp_rank", dp_rank, dp_world_size),
        ):
            if not 0 <= value < count:
                raise ValueError(f"{name} is {value}; of {count} it must be in 0 .. {count - 1}")
        if seq_len < 1 or local_batch_size < 1:
            raise ValueError(f"a batch of {local_batch_size} x {seq_len} tokens is empty; both must be at least 1")
        prepared = read_prepared(Path(config.folder))
        share, shares = config.worker * dp_world_size + dp_rank, config.workers * dp_world_size
        self._tokens, offsets = prepared.open(config.split)
        self._stream = ShareStream(
            offsets, share=share, shares=shares, seed=config.seed, seq_len=seq_len, endless=config.infinite
        )
        self._identity = {
            "corpus": prepared.corpus_sha256,
            "tokenizer": prepared.tokenizer_sha256,
            "split": config.split,
            "shares": shares,
            "share": share,
            "seed": config.seed,
            "seq_len": seq_len,
            "infinite": config.infinite,
        }
        self._infinite = config.infinite
        self._shape = local_batch_size, seq_len
        self._eos_id = prepared.eos_id
        self._rank_key = f"dp_rank_{dp_rank}"
        self._epoch = 0
        self._taken = 0

    def __iter__(self) -> Iterator[Batch]:
        while self._infinite or self._taken < self._stream.sequences(self._epoch):
            yield self._next_batch()
        self._taken = 0

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch yielded: epoch, sequences taken of it, and what it is a position in."""
        return {self._rank_key: {"epoch": self._epoch, "taken": self._taken, **self._identity}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a saved position; the batch size may be another than when it was saved.

        Raises:
            ValueError: the state is of another rank, share, share count, seed, sequence length, split, corpus or
                tokenizer, of a finite loader where this one is infinite or the reverse, or of no place in an epoch.
        """
        if self._rank_key not in state_dict:
            raise ValueError(f"the data position has no {self._rank_key}; it has: {', '.join(state_dict) or 'nothing'}")
        state = state_dict[self._rank_key]
        for name, own in self._identity.items():
            if state[name] != own:
                raise ValueError(
                    f"the data position was saved with {name} {state[name]!r}, this run has {own!r}; "
                    "resume with the same data, sequence length, workers and data-parallel ranks, or start a new run"
                )
        epoch, taken = state["epoch"], state["taken"]
        if epoch < 0 or not 0 <= taken <= self._stream.sequences(epoch):
            raise ValueError(
                f"the data position is epoch {epoch}, {taken} sequences taken; "
                f"epochs count from 0, and this one has {self._stream.sequences(epoch)} sequences"
            )
        self._epoch, self._taken = epoch, taken

    def _next_batch(self) -> Batch:
        rows, length = self._shape
        sequences: list[Sequence] = []
        while len(sequences) < rows and (self._infinite or self._taken < self._stream.sequences(self._epoch)):
            sequences.append(self._next_sequence())
        return lay_out(self._tokens, sequences, rows=rows, length=length, eos_id=self._eos_id)

    def _next_sequence(self) -> Sequence:
        while self._taken == self._stream.sequences(self._epoch):
            self._epoch, self._taken = self._epoch + 1, 0
        self._taken += 1
        return self._stream.sequence(self._epoch, self._taken - 1)


def lay_out(tokens: np.ndarray, sequences: list[Sequence], *, rows: int, length: int, eos_id: int) -> Batch:
    """A batch of `rows` x `length` from sequences of `ShareStream`; what they leave empty is padded."""
    inputs = np.full((rows, length), eos_id)
    labels = np.full((rows, length), IGNORE_INDEX)
    positions = np.tile(np.arange(length), (rows, 1))
    for row, (index, depth) in enumerate(sequences):
        inputs[row, : len(index)] = tokens[index]
        labels[row, : len(index)] = tokens[index + 1]
        # Both counts restart where they must, and the smaller one is the one that restarted last.
        depth = np.concatenate([depth, np.arange(length - len(depth))])
        positions[row] = np.minimum(depth, positions[row])
    batch = {"input": torch.from_numpy(inputs), "positions": torch.from_numpy(positions)}
    return batch, torch.from_numpy(labels)
