"""The fixed held-out set: the same sequences for every run, worker and number of ranks."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from muloco._torchtitan import IGNORE_INDEX, BaseDataLoader
from muloco.data.loader import Batch, lay_out
from muloco.data.mixture import Schedule
from muloco.data.prepare import HELD_OUT_SEED
from muloco.data.prepared import read_prepared
from muloco.data.stream import PreparedStream
from muloco.data.tokenizer import DocumentTokenizer


class HeldOutDataLoader(BaseDataLoader):
    """The first `sequences` sequences of the validation splits, divided over the data-parallel ranks of a worker.

    Iterating yields batches as `PackedDataLoader` does, once. All ranks yield the same number of batches, as they
    compute together; if the sequences do not fill the last ones, the missing rows are padding whose labels do not
    count. Batch b of the worker is the b-th of each of its ranks.

    Args:
        dp_world_size, dp_rank: rank r of R takes every R-th batch from the r-th.
        tokenizer: unused.
        seq_len, local_batch_size: L and B.

    Raises:
        ValueError: the split holds fewer than `sequences`.
        FileNotFoundError, DamagedCacheError: as `muloco.data.prepared.read_prepared`.
    """

    @dataclass(kw_only=True, slots=True, unsafe_hash=True)
    class Config(BaseDataLoader.Config):
        folders: tuple[str, ...]
        """Prepared folders, one a source of the mixture."""

        weights: tuple[float, ...] = (1.0,)
        """Shares of the sources in the sequences, to be normalized."""

        sequences: int
        """How many sequences all ranks of a worker read together."""

        batches: tuple[int, ...] | None = None
        """Numbers of the worker's batches to yield, from 0, in this order; None: all batches."""

        predict_bos: bool = False
        """Whether the EOS of a document is an input, as in the training data: see `MixtureLoader.Config`."""

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
        schedule = Schedule(config.weights, seed=HELD_OUT_SEED, share=0)
        opened = [read_prepared(Path(folder)) for folder in config.folders]
        streams: dict[int, PreparedStream] = {}
        for source, count in enumerate(schedule.counts(config.sequences)):
            if count == 0:
                continue
            streams[source] = PreparedStream(
                opened[source],
                "validation",
                share=0,
                shares=1,
                seed=HELD_OUT_SEED,
                seq_len=seq_len,
                endless=False,
                predict_bos=config.predict_bos,
            )
            if count > (there := streams[source].sequences(0)):
                raise ValueError(
                    f"the corpus holds out {there} sequences of {seq_len} tokens, "
                    f"{count} were asked for (validation.sequences)"
                )
        self._eos_id = opened[0].eos_id
        self._shape = local_batch_size, seq_len
        sources = [schedule.source(number) for number in range(config.sequences)]
        self._order = [(streams[source], sources[:number].count(source)) for number, source in enumerate(sources)]
        together = local_batch_size * dp_world_size
        batches = range(math.ceil(config.sequences / together)) if config.batches is None else config.batches
        self._starts = [batch * together + dp_rank * local_batch_size for batch in batches]

    def __iter__(self) -> Iterator[Batch]:
        rows = self._shape[0]
        for start in self._starts:
            sequences = [stream.sequence(0, number) for stream, number in self._order[start : start + rows]]
            yield lay_out(sequences, *self._shape, eos_id=self._eos_id)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


@cache
def bytes_per_token(config: HeldOutDataLoader.Config, tokenizer: str, *, seq_len: int) -> float:
    """UTF-8 bytes of the held-out text for each token that is predicted in validation, EOS and BOS among them.

    A loss of x nats a token is x / ln 2 / this bits a byte. Counted from the text that the tokenizer (its folder) makes
    of the labels of each sequence; a character that two sequences share counts as the three bytes of U+FFFD in each.
    """
    loader = HeldOutDataLoader(config, dp_world_size=1, dp_rank=0, tokenizer=None, seq_len=seq_len, local_batch_size=1)
    opened = DocumentTokenizer(Path(tokenizer))
    tokens = size = 0
    for _, labels in loader:
        predicted = labels[labels != IGNORE_INDEX].tolist()
        tokens += len(predicted)
        size += len(opened.decode(predicted).encode())
    return size / tokens
