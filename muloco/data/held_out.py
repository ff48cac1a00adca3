"""The fixed held-out set: the same sequences for every run, worker and number of ranks."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muloco._torchtitan import BaseDataLoader
from muloco.data.loader import Batch, lay_out
from muloco.data.prepared import read_prepared
from muloco.data.stream import ShareStream

SPLIT = "validation"
SEED = 0
"""Of the order of the sequences. Not the run's seed, or runs could not be compared."""


class HeldOutDataLoader(BaseDataLoader):
    """The first `sequences` sequences of the validation split, divided over the data-parallel ranks of a worker.

    Iterating yields batches as `PackedDataLoader` does, once.

    Args:
        dp_world_size, dp_rank: rank r of R takes every R-th batch from the r-th.
        tokenizer: unused.
        seq_len, local_batch_size: L and B.

    Raises:
        ValueError: `sequences` is not a multiple of B x R, or more than the split holds.
        FileNotFoundError, DamagedCacheError: as `muloco.data.prepared.read_prepared`.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        folder: str
        """Prepared folder, as `muloco.data.prepare.prepare` returns it."""

        sequences: int
        """How many sequences all ranks of a worker read together."""

        infinite: bool = False
        """torchtitan's validator sets it; it stops by itself where the set ends."""

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
        prepared = read_prepared(Path(config.folder))
        self._tokens, offsets = prepared.open(SPLIT)
        self._stream = ShareStream(offsets, share=0, shares=1, seed=SEED, seq_len=seq_len, endless=False)
        self._eos_id = prepared.eos_id
        self._shape = local_batch_size, seq_len
        if config.sequences % (local_batch_size * dp_world_size):
            raise ValueError(
                f"{config.sequences} held-out sequences are no multiple of "
                f"{dp_world_size} ranks x {local_batch_size} sequences a batch"
            )
        if config.sequences > self._stream.sequences(0):
            raise ValueError(
                f"the corpus holds out {self._stream.sequences(0)} sequences of {seq_len} tokens, "
                f"{config.sequences} were asked for (validation.sequences)"
            )
        self._starts = range(dp_rank * local_batch_size, config.sequences, dp_world_size * local_batch_size)

    def __iter__(self) -> Iterator[Batch]:
        rows, length = self._shape
        for start in self._starts:
            sequences = [self._stream.sequence(0, number) for number in range(start, start + rows)]
            yield lay_out(self._tokens, sequences, rows=rows, length=length, eos_id=self._eos_id)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass
