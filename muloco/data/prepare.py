"""Prepare a corpus once a machine: train its tokenizer, tokenize it, keep the result in a cache.

Any number of processes may prepare the same corpus at once: each works in a folder of its own and moves it into place
in one step; whoever comes second throws its work away and uses what is there.
"""

import logging
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from tokenizers import Tokenizer

from muloco.data.corpus import SPLITS, Corpus, Document, load_corpus
from muloco.data.prepared import FORMAT, Prepared, Size, read_prepared, write_meta, write_split
from muloco.data.tokenizer import BOS_ID, EOS_ID, train_tokenizer

logger = logging.getLogger(__name__)

_DOCUMENTS_AT_ONCE = 32


def prepare(corpus_name: str, vocab_size: int, cache: Path | None = None) -> Prepared:
    """The prepared folder for a corpus and a vocabulary size, made now if the cache has none.

    Args:
        corpus_name: a name that `muloco.data.corpus.load_corpus` knows.
        vocab_size: number of token ids.
        cache: where prepared folders are kept; `default_cache()` if None.

    Raises:
        ValueError: unknown corpus, or a vocabulary size that does not fit it.
        DamagedCacheError: the cache has an entry for this corpus that is not whole; the message names the folder.
    """
    corpus = load_corpus(corpus_name)
    folder = (cache or default_cache()).absolute() / f"{corpus.name}-{corpus.sha256[:16]}-v{vocab_size}-f{FORMAT}"
    if not folder.exists():
        _make(corpus, vocab_size, folder)
    prepared = read_prepared(folder)
    logger.info("prepared corpus %s (sha256 %s) in %s", corpus.name, corpus.sha256, folder)
    return prepared


def default_cache() -> Path:
    """$MULOCO_CACHE, else $XDG_CACHE_HOME/muloco, else ~/.cache/muloco."""
    if cache := os.environ.get("MULOCO_CACHE"):
        return Path(cache)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "muloco"
    return Path.home() / ".cache" / "muloco"


def _make(corpus: Corpus, vocab_size: int, folder: Path) -> None:
    """Write the prepared folder, or leave the one that another process put there meanwhile."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".preparing-") as scratch:
        draft = Path(scratch) / folder.name
        draft.mkdir()
        _fill(draft, corpus, vocab_size)
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            logger.info("another process prepared %s meanwhile; using its result", folder)


def _fill(folder: Path, corpus: Corpus, vocab_size: int) -> None:
    start = time.perf_counter()
    tokenizer = train_tokenizer(corpus, vocab_size, folder / "tokenizer")
    tokenizer.encode_special_tokens = True  # "<|end_of_text|>" inside a document is text, not the end of it
    logger.info("trained a tokenizer of %d tokens in %.1f s", vocab_size, time.perf_counter() - start)
    write_meta(
        folder,
        corpus=corpus.name,
        corpus_sha256=corpus.sha256,
        vocab_size=vocab_size,
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        sizes={split: _tokenize(folder, split, corpus.split(split), tokenizer) for split in SPLITS},
    )


def _tokenize(folder: Path, split: str, documents: tuple[Document, ...], tokenizer: Tokenizer) -> Size:
    start = time.perf_counter()
    texts = [document.text for document in documents]
    ids: list[np.ndarray] = []
    for first in track(
        range(0, len(texts), _DOCUMENTS_AT_ONCE),
        description=f"tokenizing {split}",
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    ):
        encodings = tokenizer.encode_batch_fast(texts[first : first + _DOCUMENTS_AT_ONCE])
        ids.extend(np.array([BOS_ID, *encoding.ids, EOS_ID], dtype=np.uint32) for encoding in encodings)
    write_split(folder, split, ids, tokenizer.get_vocab_size())
    size = Size(
        documents=len(texts),
        tokens=sum(len(document) for document in ids),
        characters=sum(len(text) for text in texts),
        bytes=sum(len(text.encode()) for text in texts),
    )
    logger.info("tokenized split %s in %.1f s: %s", split, time.perf_counter() - start, size)
    return size
