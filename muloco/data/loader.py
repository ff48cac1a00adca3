"""The data loaders: batches of sequences from one share of a mixture; they can stop and resume anywhere."""

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from muloco._torchtitan import IGNORE_INDEX, BaseDataLoader
from muloco.data.mixture import Schedule
from muloco.data.prepared import read_prepared, tokenizer_sha256
from muloco.data.sources import open_source
from muloco.data.stream import Pairs, PreparedStream
from muloco.data.text_stream import TextStream
from muloco.data.tokenizer import DocumentTokenizer
from muloco.settings.data import ResolvedData

Batch = tuple[dict[str, torch.Tensor], torch.Tensor]


Stream = PreparedStream | TextStream
"""The sequences of one source."""


class MixtureLoader(BaseDataLoader):
    """Batches from one share of a mixture, for one data-parallel rank of one worker.

    Documents are dealt to `workers * dp_world_size` shares, of which this loader reads number
    `worker * dp_world_size + dp_rank`: K workers of one rank read what one worker of K ranks reads. Each row is the
    next sequence of the source whose turn it is (`Schedule`).

    Iterating yields `({"input": int64 [B, L], "positions": int64 [B, L]}, labels int64 [B, L])`. Positions count from
    the document's start, or from the row's start where a row starts inside a document: always below L.

    Args:
        dp_world_size, dp_rank: data-parallel ranks inside this worker, and which of them this is.
        tokenizer: unused, as torchtitan passes it to every loader.
        seq_len, local_batch_size: L and B.

    Raises:
        ValueError: worker, rank, seed, weights or sizes out of range.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        weights: tuple[float, ...] = (1.0,)
        """Shares of the sources in the sequences, to be normalized."""

        worker: int = 0
        """This worker's number. Leave it 0 of 1 where every worker shall read the same, as in validation."""

        workers: int = 1
        """Number of workers among which the documents are divided."""

        seed: int
        """Fixes every order; not negative."""

        predict_bos: bool = False
        """Whether the EOS of each document is an input too, with the label BOS."""

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
        for name, value, count in ("worker", config.worker, config.workers), ("dp_rank", dp_rank, dp_world_size):
            if not 0 <= value < count:
                raise ValueError(f"{name} is {value}; of {count} it must be in 0 .. {count - 1}")
        if seq_len < 1 or local_batch_size < 1:
            raise ValueError(f"a batch of {local_batch_size} x {seq_len} tokens is empty; both must be at least 1")
        if config.seed < 0:
            raise ValueError(f"seed is {config.seed}; it must not be negative")
        self._config = config
        self._shape = local_batch_size, seq_len
        self._stream_settings: dict[str, Any] = {
            "shares": config.workers * dp_world_size,
            "share": config.worker * dp_world_size + dp_rank,
            "seed": config.seed,
            "seq_len": seq_len,
        }
        self._rank_key = f"dp_rank_{dp_rank}"
        self._sequences = 0
        self._schedule = Schedule(config.weights, seed=config.seed, share=self._stream_settings["share"])
        self._streams, self._eos_id, identity = self._open()
        if len(config.weights) != len(self._streams):
            raise ValueError(f"{len(config.weights)} weights for {len(self._streams)} sources")
        self._identity = {**identity, "weights": repr(config.weights), **self._stream_settings}
        if config.predict_bos:  # positions of earlier versions have no such entry
            self._identity["predict_bos"] = True

    @abstractmethod
    def _open(self) -> tuple[list[Stream], int, dict[str, Any]]:
        """The sources' streams, the id of EOS, and what a position has to agree with."""

    def __iter__(self) -> Iterator[Batch]:
        while True:
            numbers = range(self._sequences, self._sequences + self._shape[0])
            sequences = [self._streams[self._schedule.source(number)].next() for number in numbers]
            self._sequences = numbers.stop
            yield lay_out(sequences, *self._shape, eos_id=self._eos_id)

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch yielded, and what it is a position in."""
        places = json.dumps([stream.state() for stream in self._streams])
        return {self._rank_key: {"sequences": self._sequences, "places": places, **self._identity}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes to a saved position; the batch size may be another than when it was saved. Raises ValueError if the
        state is of another rank, another loader or other data, or of no place in the data."""
        if self._rank_key not in state_dict:
            raise ValueError(f"the data position has no {self._rank_key}; it has: {', '.join(state_dict) or 'nothing'}")
        state = state_dict[self._rank_key]
        for name, own in {"predict_bos": False, **self._identity}.items():
            if state.get(name, False) != own:
                raise ValueError(
                    f"the data position was saved with {name} {state.get(name, False)!r}, this run has {own!r}; "
                    "resume with the same data, sequence length, workers and data-parallel ranks, or start a new run"
                )
        for stream, place in zip(self._streams, json.loads(state["places"]), strict=True):
            stream.go_to(place)
        self._sequences = state["sequences"]


class PackedDataLoader(MixtureLoader):
    """Batches from prepared folders, whose sequences are shuffled over the whole of a share (`PreparedStream`).

    The next epoch starts in the middle of a batch if need be, and every label counts.

    Raises:
        ValueError: as `MixtureLoader`; a share without documents; folders of different tokenizers.
        FileNotFoundError, DamagedCacheError: as `muloco.data.prepared.read_prepared`.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(MixtureLoader.Config):
        folders: tuple[str, ...]
        """Prepared folders, one a source."""

    _config: Config

    def _open(self) -> tuple[list[Stream], int, dict[str, Any]]:
        config = self._config
        opened = [read_prepared(Path(folder)) for folder in config.folders]
        if len({prepared.tokenizer_identity for prepared in opened}) > 1:
            raise ValueError(f"{', '.join(config.folders)} were made with different tokenizers")
        streams: list[Stream] = [
            PreparedStream(prepared, "train", predict_bos=config.predict_bos, **self._stream_settings)
            for prepared in opened
        ]
        identity = {
            "corpus": " ".join(prepared.corpus_sha256 for prepared in opened),
            "tokenizer": opened[0].tokenizer_identity,
        }
        return streams, opened[0].eos_id, identity


class StreamingDataLoader(MixtureLoader):
    """Batches from sources that are read and tokenized on the way; sequences are shuffled in blocks (`TextStream`).
    Raises ValueError as `MixtureLoader`, and UserError if a source or the tokenizer cannot be used."""

    @dataclass(kw_only=True, slots=True)
    class Config(MixtureLoader.Config):
        data: ResolvedData
        """The section of the run's config."""

        tokenizer_folder: str
        """As `DocumentTokenizer` takes it."""

    _config: Config

    def _open(self) -> tuple[list[Stream], int, dict[str, Any]]:
        config, data = self._config, self._config.data
        folder, hold_out = Path(config.tokenizer_folder), data.validation is None
        tokenizer = DocumentTokenizer(folder)
        sources = [open_source(name, data.text_field) for name in data.sources]
        total = sum(config.weights)
        streams: list[Stream] = [
            TextStream(
                source,
                tokenizer,
                block=max(1, round(data.shuffle_buffer * weight / total)),
                hold_out=hold_out,
                strict=data.strict,
                predict_bos=config.predict_bos,
                **self._stream_settings,
            )
            for source, weight in zip(sources, config.weights, strict=True)
        ]
        identity = {
            "corpus": json.dumps([source.identity for source in sources]),
            "tokenizer": f"{tokenizer_sha256(folder)} {tokenizer.bos_id} {tokenizer.eos_id}",
            "shuffle_buffer": data.shuffle_buffer,
            "hold_out": hold_out,
        }
        return streams, tokenizer.eos_id, identity


def lay_out(sequences: Sequence[Pairs], rows: int, length: int, *, eos_id: int) -> Batch:
    """A batch of `rows` x `length` from sequences; what they leave empty is padded."""
    inputs = np.full((rows, length), eos_id)
    labels = np.full((rows, length), IGNORE_INDEX)
    positions = np.tile(np.arange(length), (rows, 1))
    for row, pairs in enumerate(sequences):
        count = len(pairs.inputs)
        inputs[row, :count], labels[row, :count] = pairs.inputs, pairs.labels
        # Both counts restart where they must, and the smaller one is the one that restarted last.
        depth = np.concatenate([pairs.depth, np.arange(length - count)])
        positions[row] = np.minimum(depth, positions[row])
    batch = {"input": torch.from_numpy(inputs), "positions": torch.from_numpy(positions)}
    return batch, torch.from_numpy(labels)
