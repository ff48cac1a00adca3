"""Corpora: named, ordered collections of text documents that are split by their own hash.

The embedded corpus is on every machine that runs Python. Its bytes depend on the Python release, so callers log
`Corpus.sha256`.
"""

import hashlib
import logging
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation")
VALIDATION_SHARE = 0.05
MAX_DOCUMENT_BYTES = 90_000  # about 1 % of the embedded corpus: no file may dominate it

# Folders of the library that are left out: what was installed, tests, a large copy of Python's own grammar, and the
# build's settings, which hold paths of the machine.
_SKIPPED_FOLDERS = ("site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3")
_BUILD_SETTINGS = ("config-", "_sysconfigdata")


@dataclass(frozen=True)
class Document:
    """One text and where it came from (for the embedded corpus: its path relative to the library)."""

    name: str
    text: str

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the UTF-8 text; the name has no part in it."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def split(self) -> str:
        """The split this document is in, by its hash alone: it stays there whatever joins or leaves the corpus."""
        return "validation" if int(self.sha256[:8], 16) < VALIDATION_SHARE * 2**32 else "train"


@dataclass(frozen=True)
class Corpus:
    """Documents in the order of their hashes, whatever order they were given in."""

    name: str
    documents: tuple[Document, ...]

    def __post_init__(self) -> None:
        ordered = sorted(self.documents, key=lambda document: (document.sha256, document.name))
        object.__setattr__(self, "documents", tuple(ordered))

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the documents' digests: equal for two corpora exactly if their texts are."""
        return hashlib.sha256("".join(document.sha256 for document in self.documents).encode()).hexdigest()

    def split(self, name: str) -> tuple[Document, ...]:
        """The documents of split `name`, in corpus order. Raises ValueError for a name that is not in `SPLITS`."""
        if name not in SPLITS:
            raise ValueError(f"corpus {self.name!r} has no split {name!r}; it has {', '.join(SPLITS)}")
        return tuple(document for document in self.documents if document.split == name)


def embedded_corpus() -> Corpus:
    """The sources of the running Python's standard library. Raises FileNotFoundError if it came without them."""
    return _read(Path(sysconfig.get_path("stdlib")))


@cache
def _read(library: Path) -> Corpus:
    """Once a process, which may need it for the data and for the tokenizer."""
    documents, unreadable, empty = [], 0, 0
    for path in _sources(library):
        try:
            text = _cut(path.read_bytes()).decode()
        except (OSError, UnicodeDecodeError):
            unreadable += 1
            continue
        if not text.strip():
            empty += 1
        elif not _is_code_page(path, text):
            documents.append(Document(path.relative_to(library).as_posix(), text))
    if not documents:
        raise FileNotFoundError(f"no Python sources under {library}: this Python came without its library's *.py files")
    logger.info("embedded corpus: %d files of %s", len(documents), library)
    if unreadable or empty:
        logger.info("embedded corpus: skipped %d unreadable and %d empty files", unreadable, empty)
    return Corpus("embedded", tuple(documents))


def _sources(library: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(library):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS and not name.startswith(_BUILD_SETTINGS)]
        yield from (
            Path(folder, name) for name in files if name.endswith(".py") and not name.startswith(_BUILD_SETTINGS)
        )


def _cut(data: bytes) -> bytes:
    """Returns at most `MAX_DOCUMENT_BYTES` of `data`, ending with a line (a newline never lies inside a UTF-8
    character)."""
    if len(data) <= MAX_DOCUMENT_BYTES:
        return data
    return data[: data.rfind(b"\n", 0, MAX_DOCUMENT_BYTES) + 1]


def _is_code_page(path: Path, text: str) -> bool:
    """Whether a module of `encodings` is one of the generated tables (bytes to characters): it is no text."""
    return path.parent.name == "encodings" and ("decoding_table" in text or "decoding_map" in text)
