"""The data loader: packs one share of a prepared split into full batches and can stop and resume at any of them."""

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


class PackedDataLoader(BaseDataLoader):
    """Batches of packed documents for one data-parallel rank of one worker.

    The documents are dealt round-robin to `workers * dp_world_size` shares, of which this loader reads number
    `worker * dp_world_size + dp_rank`: K workers of one rank read what one worker of K ranks reads. A share is read in
    the order of `ShareStream`, B * L pairs a batch, so a document may go on in the next row or the next batch.

    Iterating yields `({"input": int64 [B, L], "positions": int64 [B, L]}, labels int64 [B, L])`. Positions count from
    the document's start, or from the row's start where a document goes on from an earlier row: always below L.

    An infinite loader starts the next epoch in the middle of a batch if need be, and every label counts. A finite one
    stops after one epoch, its last batch filled up with EOS inputs and `IGNORE_INDEX` labels, and then is back at the
    start. `iter()` goes on from the current position; to read again the front of a finite split, build a new loader.

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
        """Fixes the order of the documents in every epoch; not negative."""

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
        self._stream = ShareStream(offsets, share=share, shares=shares, seed=config.seed)
        self._identity = {
            "corpus": prepared.corpus_sha256,
            "tokenizer": prepared.tokenizer_sha256,
            "split": config.split,
            "shares": shares,
            "share": share,
            "seed": config.seed,
        }
        self._infinite = config.infinite
        self._shape = local_batch_size, seq_len
        self._eos_id = prepared.eos_id
        self._rank_key = f"dp_rank_{dp_rank}"
        self._epoch = 0
        self._consumed = 0

    def __iter__(self) -> Iterator[Batch]:
        while self._infinite or self._consumed < self._stream.length:
            yield self._next_batch()
        self._consumed = 0

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch yielded: epoch, pairs consumed in it, and what it is a position in."""
        return {self._rank_key: {"epoch": self._epoch, "consumed": self._consumed, **self._identity}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a saved position; batch and sequence length may be others than when it was saved.

        Raises:
            ValueError: the state is of another rank, share, share count, seed, split, corpus or tokenizer.
        """
        if self._rank_key not in state_dict:
            raise ValueError(f"the data position has no {self._rank_key}; it has: {', '.join(state_dict) or 'nothing'}")
        state = state_dict[self._rank_key]
        for name, own in self._identity.items():
            if state[name] != own:
                raise ValueError(
                    f"the data position was saved with {name} {state[name]!r}, this run has {own!r}; "
                    "resume with the same data, workers and data-parallel ranks, or start a new run"
                )
        if not (state["epoch"] >= 0 and 0 <= state["consumed"] <= self._stream.length):
            raise ValueError(
                f"the data position is epoch {state['epoch']}, {state['consumed']} consumed; "
                f"an epoch of this share has {self._stream.length}"
            )
        self._epoch, self._consumed = state["epoch"], state["consumed"]

    def _next_batch(self) -> Batch:
        rows, length = self._shape
        index, depth = self._take(rows * length)
        padding = rows * length - len(index)
        inputs = np.pad(self._tokens[index].astype(np.int64), (0, padding), constant_values=self._eos_id)
        labels = np.pad(self._tokens[index + 1].astype(np.int64), (0, padding), constant_values=IGNORE_INDEX)
        # Both counts restart where they must, and the smaller one is the one that restarted last.
        depth = np.concatenate([depth, np.arange(padding)]).reshape(rows, length)
        positions = np.minimum(depth, np.arange(length))
        batch = {"input": torch.from_numpy(inputs).view(rows, length), "positions": torch.from_numpy(positions)}
        return batch, torch.from_numpy(labels).view(rows, length)

    def _take(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Advance by `count` pairs, over epochs if infinite, else as far as there are any; as `ShareStream.read`."""
        pieces = []
        while count > 0:
            if self._consumed == self._stream.length:
                if not self._infinite:
                    break
                self._epoch, self._consumed = self._epoch + 1, 0
            piece = self._stream.read(self._epoch, self._consumed, self._consumed + count)
            pieces.append(piece)
            self._consumed += len(piece[0])
            count -= len(piece[0])
        index, depth = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        return index, depth
