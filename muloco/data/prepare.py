"""From the names of sources to data that loaders can open: tokenizer, prepared folders, the held-out set.

Sources are tokenized once, into the cache (`prepare`), or read and tokenized while training goes on (streaming);
the held-out set is prepared in both cases.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from muloco.data.cache import alone, default_cache, make_once
from muloco.data.checksums import arrays_are_known, check_small_files, note_arrays
from muloco.data.errors import REFUSED
from muloco.data.mixture import Schedule
from muloco.data.prepared import FORMAT, Prepared, read_prepared, tokenizer_sha256
from muloco.data.sources import Embedded, Source, open_source
from muloco.data.tokenize import Part, tokenize
from muloco.data.tokenizer import DocumentTokenizer, train_tokenizer
from muloco.errors import UserError
from muloco.settings.data import EMBEDDED, ResolvedData

logger = logging.getLogger(__name__)

HELD_OUT_SEED = 0
"""Seed of the order of the held-out sequences. It is not the run's seed, so that runs can be compared."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The data that a run trains on. Either `prepared` or `streamed` has one entry a source of the mixture."""

    weights: tuple[float, ...]
    prepared: tuple[Prepared, ...] = ()
    streamed: tuple[Source, ...] = ()
    held_out: tuple[Prepared, ...]
    """Folders with a split `validation`; with its weights, what `HeldOutDataLoader` reads."""
    held_out_weights: tuple[float, ...]

    @property
    def tokenizer_folder(self) -> Path:
        return self.held_out[0].tokenizer_folder

    @property
    def digests(self) -> list[str]:
        """SHA-256 of the text of each source, in hexadecimal; where it is streamed, of what is held out."""
        return [prepared.corpus_sha256 for prepared in self.prepared or self.held_out]

    def check_shares(self, shares: int) -> None:
        """Raises UserError unless every share, of workers x data-parallel ranks, has a document to train on in each
        prepared source. `muloco.data.text_stream.check_shares` checks a stream."""
        for prepared in self.prepared:
            if (documents := prepared.sizes["train"].documents) < shares:
                raise UserError(
                    f"{prepared.corpus} has {documents} documents to train on, fewer than the {shares} shares "
                    "(workers x data-parallel ranks) that they are dealt to; take fewer workers or ranks, or more text"
                )

    def description(self) -> str:
        """One line a source, for people."""
        total = sum(self.weights)
        several = len(self.weights) > 1
        shares = [f", {weight / total:.1%} of the sequences" if several else "" for weight in self.weights]
        if self.prepared:
            lines = [
                f"corpus {prepared.corpus} (sha256 {prepared.corpus_sha256[:16]}): "
                f"{prepared.sizes['train'].tokens:,} training tokens{share}{_skipped(prepared)}"
                for prepared, share in zip(self.prepared, shares, strict=True)
            ]
        else:
            lines = [
                f"corpus {source.name}: streamed and tokenized on the way{share}{_left_out(source)}"
                for source, share in zip(self.streamed, shares, strict=True)
            ]
        held_out = sum(prepared.sizes["validation"].tokens for prepared in self.held_out)
        return "\n".join([*lines, f"held out: {held_out:,} tokens"])


def prepare(
    data: ResolvedData, *, held_out_sequences: int, seq_len: int, verify: bool = False, cache: Path | None = None
) -> TrainingData:
    """Prepares everything that training needs, unless it is in the cache.

    Args:
        seq_len: tokens of a sequence.
        verify: whether to verify the checksums of all files in the cache.
        cache: the folder of prepared folders; None: `default_cache()`.

    Raises:
        UserError: a source or the tokenizer cannot be used, or too little is held out.
        DamagedCacheError: an entry of the cache is incomplete; the message names the folder.
    """
    cache = (cache or default_cache()).absolute()
    sources = [open_source(name, data.text_field) for name in data.sources]
    opened = open_tokenizer(data.tokenizer, data.vocabulary, cache)
    make = partial(prepare_source, tokenizer=opened, strict=data.strict, verify=verify, cache=cache)
    prepared: tuple[Prepared, ...] = ()
    if data.prepare:
        part = Part.ALL if data.validation is None else Part.TRAIN
        prepared = tuple(make(source, part=part) for source in sources)
    shares = data.weights or _sizes(sources, prepared, predict_bos=data.predict_bos)
    held_out_shares = shares if data.validation is None else (1.0,)
    needed = Schedule(held_out_shares, seed=HELD_OUT_SEED, share=0).counts(held_out_sequences)
    held_out: tuple[Prepared, ...]
    if data.validation is not None:
        pairs = None if data.prepare else held_out_sequences * seq_len
        held_out = (make(open_source(data.validation, data.text_field), part=Part.VALIDATION, most_pairs=pairs),)
    elif data.prepare:
        held_out = prepared
    else:
        held_out = tuple(
            make(source, part=Part.HELD_OUT, most_pairs=max(1, count) * seq_len)
            for source, count in zip(sources, needed, strict=True)
        )
    for folder, count in zip(held_out, needed, strict=True):
        there = -(-folder.sizes["validation"].pairs(predict_bos=data.predict_bos) // seq_len)
        if there < count:
            share = " (about 5 % of its documents, by their hash)" if data.validation is None else ""
            raise UserError(
                f"{folder.corpus} holds out {there} sequences of {seq_len} tokens{share}, {count} were asked for; "
                "take fewer (validation.sequences) or another data.validation"
            )
    return TrainingData(
        weights=shares,
        prepared=prepared,
        streamed=() if data.prepare else tuple(sources),
        held_out=held_out,
        held_out_weights=held_out_shares,
    )


def open_tokenizer(name: str, vocabulary: int, cache: Path) -> DocumentTokenizer:
    """The tokenizer in a folder, or the embedded one, which is trained on first use. Raises UserError."""
    if name != EMBEDDED:
        return DocumentTokenizer(Path(name))
    corpus = Embedded().corpus
    folder = cache / f"tokenizer-{corpus.sha256[:16]}-v{vocabulary}-f{FORMAT}"
    make_once(folder, lambda draft: train_tokenizer(corpus, vocabulary, draft))
    check_small_files(folder)
    return DocumentTokenizer(folder)


def prepare_source(
    source: Source,
    tokenizer: DocumentTokenizer,
    *,
    part: Part = Part.ALL,
    most_pairs: int | None = None,
    strict: bool = False,
    verify: bool = False,
    cache: Path,
) -> Prepared:
    """The prepared folder of one source, made anew where `Source.key` has changed. Arguments and errors as `tokenize`;
    with `strict`, UserError also if something was left out when the folder was made."""
    settings = [source.key, tokenizer_sha256(tokenizer.folder), tokenizer.bos_id, tokenizer.eos_id, part, most_pairs]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source.name).name).strip("-.")[:40]
    folder = cache / f"{label}-{key}-f{FORMAT}"
    make_once(folder, lambda draft: tokenize(draft, source, tokenizer, part, most_pairs=most_pairs, strict=strict))
    prepared = _opened(folder, verify=verify)
    if strict and source.left_out:
        where, reason = source.left_out[0]
        raise UserError(f"{where}: {reason}; {REFUSED}")
    if strict and prepared.skipped:
        raise UserError(f"{prepared.first_skipped}; data.strict refuses it and {prepared.skipped - 1} more")
    return prepared


def _opened(folder: Path, *, verify: bool) -> Prepared:
    """Opens a cache entry. Large arrays are compared with their checksums by the first process that finds them new or
    changed. In a cache that cannot be written to, this cannot be recorded, so they are not compared."""
    if not verify and (arrays_are_known(folder) or not os.access(folder, os.W_OK)):
        return read_prepared(folder)
    with alone(folder):
        if not verify and arrays_are_known(folder):  # another process has compared them meanwhile
            return read_prepared(folder)
        logger.info("comparing %s with its checksums", folder)
        prepared = read_prepared(folder, verify=True)
        note_arrays(folder)
    return prepared


def _sizes(sources: Sequence[Source], prepared: Sequence[Prepared], *, predict_bos: bool) -> tuple[float, ...]:
    if len(sources) == 1:
        return (1.0,)
    if prepared:
        for folder in prepared:
            if not folder.sizes["train"].tokens:
                raise UserError(f"{folder.corpus} holds no text for training: its hash holds out all of it")
        return tuple(float(folder.sizes["train"].pairs(predict_bos=predict_bos)) for folder in prepared)
    unknown = [source.name for source in sources if source.size is None]
    if unknown:
        raise UserError(f"how large {', '.join(unknown)} is cannot be known while it is streamed; give data.weights")
    return tuple(float(source.size or 0) for source in sources)


def _left_out(source: Source) -> str:
    skipped = source.left_out
    return "; skipped files, folders or links: {} (first: {}: {})".format(len(skipped), *skipped[0]) if skipped else ""


def _skipped(prepared: Prepared) -> str:
    first = prepared.first_skipped
    return f"; skipped {prepared.skipped} that hold no text (first: {first})" if prepared.skipped else ""
