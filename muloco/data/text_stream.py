"""The sequences of one share of a source that is read and tokenized while training goes on."""

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from muloco.data.corpus import Document
from muloco.data.errors import BadRecord, Skipped
from muloco.data.sources import Place, Source
from muloco.data.stream import Pairs, permutation
from muloco.data.tokenizer import DocumentTokenizer
from muloco.errors import UserError

logger = logging.getLogger(__name__)

_DOCUMENTS_AT_ONCE = 32


@dataclass(frozen=True)
class Position:
    """A place between two pairs of a share: so many pairs into the document that begins at a record."""

    epoch: int = 0
    record: int = 0
    """Running number of the record in its epoch."""
    place: Place | None = None
    """Where the source has it; None: at its start."""
    pairs: int = 0


class TextStream:
    """What one share of a source reads, epoch after epoch: sequences that are shuffled in blocks.

    Records are dealt by their running number: share s of S takes records s, s + S, s + 2 S, ... of every epoch, whether
    they turn out to hold a text or not. Documents give pairs as in `PreparedStream`, in the source's order, and the
    pairs are cut into sequences.

    Every block is a fixed run of sequences in an order fixed by (seed, number of the block). So the state is where the
    block begins and how much of it has been taken: to go on from it, the block is read and tokenized once more. While a
    block is used, a thread reads the next one.

    Args:
        seq_len, block: pairs in a sequence, and sequences in a block.
        hold_out: leave out the documents that their hash puts into the validation split.
        strict: refuse records that are not text, instead of skipping them.
        predict_bos: take the EOS of each document as an input too, with the label BOS.
    """

    def __init__(
        self,
        source: Source,
        tokenizer: DocumentTokenizer,
        *,
        share: int,
        shares: int,
        seed: int,
        seq_len: int,
        block: int,
        hold_out: bool,
        strict: bool,
        predict_bos: bool = False,
    ):
        self._source, self._tokenizer = source, tokenizer
        self._share, self._shares = share, shares
        self._seed, self._seq_len, self._block = seed, seq_len, block
        self._hold_out, self._strict = hold_out, strict
        self._following = [tokenizer.bos_id] if predict_bos else []  # the part of the next document that is a label
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="text-stream")
        self._next: Future[tuple[Pairs, Position]] | None = None
        self._pairs: Pairs | None = None
        self._number = self._taken = 0
        self.go_to({"block": 0, "taken": 0, "begin": {}})

    def next(self) -> Pairs:
        """The next sequence. Raises UserError: a whole epoch has no text for this share, or what `strict` refuses."""
        if self._pairs is None:
            self._pairs, self._end = (self._next or self._reader.submit(self._read_block)).result()
            self._next = self._reader.submit(self._read_block)
            self._order = permutation(self._block, [self._seed, self._number, 3])
        start = int(self._order[self._taken]) * self._seq_len
        sequence = Pairs(*(array[start : start + self._seq_len] for array in self._pairs))
        self._taken += 1
        if self._taken == self._block:
            self._number, self._taken, self._begin, self._pairs = self._number + 1, 0, self._end, None
        return sequence

    def state(self) -> dict[str, Any]:
        """JSON values that say where it is."""
        return {"block": self._number, "taken": self._taken, "begin": asdict(self._begin)}

    def go_to(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` of a stream with the same settings said."""
        if self._next is not None:
            self._next.exception()  # what it was reading is of no use; only one thread may read the source
        self._next = self._pairs = None
        self._number, self._taken, self._begin = state["block"], state["taken"], Position(**state["begin"])
        self._position = self._begin  # of the next pair to be read
        self._documents = self._documents_from(self._begin)
        self._ids = np.empty(1, dtype=np.uint32)  # one token has no pair: the next document is due

    def _read_block(self) -> tuple[Pairs, Position]:
        """The pairs of the next block, and where the pair behind them is."""
        parts, missing = [], self._block * self._seq_len
        while missing:
            start = self._position.pairs
            if start >= len(self._ids) - 1:
                self._position, self._ids = next(self._documents)
                continue
            stop = min(start + missing, len(self._ids) - 1)
            parts.append((self._ids[start:stop], self._ids[start + 1 : stop + 1], np.arange(start, stop)))
            missing -= stop - start
            self._position = replace(self._position, pairs=stop)
        return Pairs(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True))), self._position

    def _documents_from(self, start: Position) -> Iterator[tuple[Position, np.ndarray]]:
        """Documents from a position on, each with its own position; the first may have been read in part."""
        pairs_read = start.pairs
        while True:
            any_text, texts = start.record > 0, self._epoch(start)
            while batch := list(islice(texts, _DOCUMENTS_AT_ONCE)):
                documents = self._tokenizer.encode([text for _, text in batch])
                for (position, _), ids in zip(batch, documents, strict=True):
                    yield replace(position, pairs=pairs_read), np.append(ids, np.array(self._following, ids.dtype))
                    any_text, pairs_read = True, 0
            if not any_text:
                raise UserError(_no_text(self._share, self._shares, self._source.name))
            start, pairs_read = Position(epoch=start.epoch + 1), 0

    def _epoch(self, start: Position) -> Iterator[tuple[Position, str]]:
        """The texts of the rest of an epoch, each with its position."""
        skipped, number = Skipped(strict=self._strict, quiet=start.epoch > 0), start.record
        for record in self._source.read(skipped, start.place):
            if number % self._shares == self._share:
                try:
                    text = record.text()
                except BadRecord as problem:
                    skipped.skip(record.where, str(problem))
                else:
                    if not self._hold_out or Document("", text).split == "train":
                        yield Position(epoch=start.epoch, record=number, place=record.place), text
            number += 1
        level = logging.INFO if start.epoch == 0 else logging.DEBUG
        logger.log(level, "epoch %d of %s read, of %d records; %s", start.epoch, self._source.name, number, skipped)


def check_shares(source: Source, shares: int, *, hold_out: bool) -> None:
    """Raises UserError unless every share of a stream finds a text in an epoch, by reading the source until each has
    one."""
    missing = set(range(shares))
    for number, record in enumerate(source.read(Skipped(strict=False, quiet=True))):
        if number % shares not in missing:
            continue
        with contextlib.suppress(BadRecord):
            if not hold_out or Document("", record.text()).split == "train":
                missing.discard(number % shares)
        if not missing:
            return
    raise UserError(_no_text(min(missing), shares, source.name))


def _no_text(share: int, shares: int, source: str) -> str:
    advice = "take fewer workers x data-parallel ranks, or more data"
    return f"share {share} of {shares} finds no text in {source}; {advice}"
