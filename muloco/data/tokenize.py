"""Tokenizing a whole source into a prepared folder, in bounded memory and on all cores."""

import contextlib
import hashlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from enum import StrEnum
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from muloco.console import open_console
from muloco.cores import usable_cores
from muloco.data.corpus import SPLITS, Document
from muloco.data.errors import Skipped
from muloco.data.prepared import Prepared, SplitWriter, tokenizer_sha256
from muloco.data.sources import Source, read_texts
from muloco.data.tokenizer import DocumentTokenizer
from muloco.errors import UserError

logger = logging.getLogger(__name__)

_DOCUMENTS_AT_ONCE = 64
_CHARACTERS_AT_ONCE = 1 << 20
_SMALL = 64 << 20  # bytes; below, starting processes takes longer than it saves
_MOST_PROCESSES = 32  # one process reads for all of them, and feeds no more


class Part(StrEnum):
    """The documents of a source that a prepared folder holds, and their splits."""

    ALL = "all"
    """All, each in the split that its hash says."""
    TRAIN = "train"
    """All, for training: validation has a source of its own."""
    VALIDATION = "validation"
    """All, for validation."""
    HELD_OUT = "held-out"
    """The documents that are held out for validation by their hash; training reads the others as a stream."""

    @property
    def splits(self) -> tuple[str, ...]:
        return {Part.ALL: SPLITS, Part.TRAIN: ("train",)}.get(self, ("validation",))

    def split_of(self, document: Document) -> str | None:
        """The split that a document belongs to; None: it is left out."""
        if self in (Part.TRAIN, Part.VALIDATION):
            return self.value
        return None if self == Part.HELD_OUT and document.split == "train" else document.split


def tokenize(
    folder: Path, source: Source, tokenizer: DocumentTokenizer, part: Part, *, most_pairs: int | None, strict: bool
) -> None:
    """Fills an empty folder that `muloco.data.prepared.read_prepared` reads.

    Args:
        most_pairs: stop with the document that brings so many (input, label) pairs; None: read all.
        strict: refuse what is no text, instead of leaving it out.

    Raises:
        UserError: the source holds no text at all, or what `strict` refuses.
    """
    started = time.perf_counter()
    tokenizer.copy_to(folder / "tokenizer")
    skipped, digest = Skipped(strict=strict), hashlib.sha256()
    writers = {split: SplitWriter(folder, split, tokenizer.vocab_size) for split in part.splits}
    with _progress(source) as advance:
        batches = _batches(source, skipped, part, advance)
        processes = 1 if most_pairs is not None else _processes(source)
        with contextlib.closing(_encoded(batches, tokenizer, processes)) as encoded:
            for document, ids in encoded:
                digest.update(document.sha256.encode())
                writer = writers[part.split_of(document) or ""]
                writer.append(ids)
                if most_pairs is not None and writer.tokens - writer.documents >= most_pairs:
                    break
    sizes = {split: writer.close() for split, writer in writers.items()}
    if not any(size.documents for size in sizes.values()):
        raise UserError(f"{source.name} holds no text{' to hold out' if part == Part.HELD_OUT else ''}; {skipped}")
    prepared = Prepared(
        folder=folder,
        corpus=source.name,
        corpus_sha256=digest.hexdigest(),
        tokenizer_sha256=tokenizer_sha256(tokenizer.folder),
        vocab_size=tokenizer.vocab_size,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        skipped=skipped.count,
        first_skipped=skipped.first,
        sizes=sizes,
    )
    prepared.write()
    seconds, tokens = time.perf_counter() - started, sum(size.tokens for size in sizes.values())
    documents = ", ".join(f"{size.documents:,} documents for {split}" for split, size in sizes.items())
    pace = f"{tokens:,} tokens in {seconds:.1f} s ({tokens / seconds:,.0f} tokens/s, {processes} processes)"
    logger.info("tokenized %s: %s, %s; %s", source.name, documents, pace, skipped)


def _batches(
    source: Source, skipped: Skipped, part: Part, advance: Callable[[int], object]
) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for text in read_texts(source, skipped, advance):
        document = Document("", text)
        if part.split_of(document) is None:
            continue
        batch.append(document)
        characters += len(text)
        if len(batch) == _DOCUMENTS_AT_ONCE or characters >= _CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _processes(source: Source) -> int:
    return 1 if source.size is not None and source.size < _SMALL else min(usable_cores(), _MOST_PROCESSES)


def _encoded(
    batches: Iterator[list[Document]], tokenizer: DocumentTokenizer, processes: int
) -> Generator[tuple[Document, np.ndarray]]:
    """All documents with their ids, in order."""
    if processes == 1:
        for batch in batches:
            yield from zip(batch, tokenizer.encode([document.text for document in batch]), strict=True)
        return
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_start_process, initargs=(tokenizer.folder,)
    )
    try:
        waiting: deque[tuple[list[Document], Future]] = deque()
        for batch in batches:
            waiting.append((batch, pool.submit(_encode, [document.text for document in batch])))
            if len(waiting) > 2 * processes:
                done, ids = waiting.popleft()
                yield from zip(done, ids.result(), strict=True)
        for done, ids in waiting:
            yield from zip(done, ids.result(), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


_tokenizer: DocumentTokenizer | None = None  # of a process of the pool


def _start_process(folder: Path) -> None:
    global _tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends the pool
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _tokenizer = DocumentTokenizer(folder)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode(texts: Sequence[str]) -> list[np.ndarray]:
    assert _tokenizer is not None
    return _tokenizer.encode(texts)


@contextlib.contextmanager
def _progress(source: Source) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal; gives a function that is told the bytes read so far."""
    name = TextColumn("tokenizing {task.description}", markup=False)
    columns = name, BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=open_console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(source.name, total=source.size)
        shown = 0

        def advance(done: int) -> None:
            nonlocal shown
            if done - shown >= 1 << 20:
                shown = done
                bar.update(task, completed=done)

        yield advance
