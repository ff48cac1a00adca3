"""The prepared folder: a tokenized corpus on disk, and the checks made when it is opened.

meta.json               what the folder holds: the fields of `Prepared`
tokenizer/              as `muloco.data.tokenizer` writes it
SPLIT.tokens.npy        uint16, or uint32 for a vocabulary over 65536: BOS, text, EOS of each document, end to end
SPLIT.offsets.npy       int64 [documents + 1]: document i is tokens[offsets[i] : offsets[i + 1]]
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

FORMAT = 1


class DamagedCacheError(RuntimeError):
    """A prepared folder does not hold what its meta.json says; deleting it and preparing again is the cure."""

    def __init__(self, folder: Path, problem: str):
        super().__init__(f"damaged prepared corpus: {problem}; delete the folder {folder} and prepare again")


@dataclass(frozen=True)
class Size:
    """How much one split holds. `tokens` counts BOS and EOS; a model predicts `tokens - documents` of them."""

    documents: int
    tokens: int
    characters: int
    bytes: int


@dataclass(frozen=True)
class Prepared:
    """A prepared folder. The two digests together fix every token in it."""

    folder: Path
    corpus: str
    corpus_sha256: str
    tokenizer_sha256: str
    vocab_size: int
    bos_id: int
    eos_id: int
    sizes: dict[str, Size]

    @property
    def tokenizer_folder(self) -> Path:
        return self.folder / "tokenizer"

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens per split, BOS and EOS included."""
        return {split: size.tokens for split, size in self.sizes.items()}

    @property
    def characters(self) -> dict[str, int]:
        """Characters of text per split."""
        return {split: size.characters for split, size in self.sizes.items()}

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes of UTF-8 text per split: what bits per byte are counted against."""
        return {split: size.bytes for split, size in self.sizes.items()}

    def open(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """The tokens (memory-mapped, uint16 or uint32 [tokens]) and offsets (int64 [documents + 1]) of one split.

        Raises:
            ValueError: there is no such split.
            DamagedCacheError: a file is missing, unreadable or of another size or type than meta.json says.
        """
        if split not in self.sizes:
            raise ValueError(f"{self.folder} has no split {split!r}; it has {', '.join(self.sizes)}")
        size = self.sizes[split]
        tokens = self._array(f"{split}.tokens.npy", token_type(self.vocab_size), size.tokens, mmap_mode="r")
        offsets = self._array(f"{split}.offsets.npy", np.dtype(np.int64), size.documents + 1, mmap_mode=None)
        if offsets[0] != 0 or offsets[-1] != size.tokens:
            raise DamagedCacheError(self.folder, f"{split}.offsets.npy does not span {size.tokens} tokens")
        return tokens, offsets

    def _array(self, name: str, dtype: np.dtype, length: int, mmap_mode) -> np.ndarray:
        try:
            array = np.load(self.folder / name, mmap_mode=mmap_mode)
        except (OSError, ValueError, EOFError) as error:
            raise DamagedCacheError(self.folder, f"{name} cannot be read ({error})") from error
        if array.dtype != dtype or array.shape != (length,):
            found = f"{array.dtype} {list(array.shape)}"
            raise DamagedCacheError(self.folder, f"{name} is {found}, meta.json says {dtype} {[length]}")
        return array.view(np.ndarray)


def token_type(vocab_size: int) -> np.dtype:
    """The smallest of uint16 and uint32 that holds every id of the vocabulary."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def read_prepared(folder: Path) -> Prepared:
    """Open a prepared folder and check that all of it is there.

    Raises:
        FileNotFoundError: there is no such folder.
        DamagedCacheError: it is incomplete, of another format version, or its files contradict its meta.json.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no prepared corpus at {folder}; muloco.data.prepare.prepare() makes one")
    try:
        meta = json.loads((folder / "meta.json").read_text())
        if (version := meta.pop("format")) != FORMAT:
            raise DamagedCacheError(folder, f"meta.json is of format {version}, this version of muloco reads {FORMAT}")
        sizes = {split: Size(**size) for split, size in meta.pop("sizes").items()}
        prepared = Prepared(folder=folder, sizes=sizes, **meta)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCacheError(folder, f"meta.json cannot be read ({error!r})") from error
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (prepared.tokenizer_folder / name).is_file():
            raise DamagedCacheError(folder, f"tokenizer/{name} is missing")
    if _tokenizer_sha256(prepared.tokenizer_folder) != prepared.tokenizer_sha256:
        raise DamagedCacheError(folder, "tokenizer/tokenizer.json is not the one the corpus was tokenized with")
    for split in sizes:
        prepared.open(split)
    return prepared


def write_split(folder: Path, split: str, documents: Sequence[np.ndarray], vocab_size: int) -> None:
    """Write the two arrays of one split; each document is its ids (whole numbers [tokens]), BOS and EOS included."""
    lengths = np.fromiter((len(document) for document in documents), dtype=np.int64, count=len(documents))
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    tokens = np.empty(offsets[-1], dtype=token_type(vocab_size))
    for document, start, stop in zip(documents, offsets[:-1], offsets[1:], strict=True):
        tokens[start:stop] = document
    np.save(folder / f"{split}.tokens.npy", tokens)
    np.save(folder / f"{split}.offsets.npy", offsets)


def write_meta(
    folder: Path,
    *,
    corpus: str,
    corpus_sha256: str,
    vocab_size: int,
    bos_id: int,
    eos_id: int,
    sizes: dict[str, Size],
) -> None:
    """Write meta.json, which completes the folder; the tokenizer must be in place."""
    meta = {
        "format": FORMAT,
        "corpus": corpus,
        "corpus_sha256": corpus_sha256,
        "tokenizer_sha256": _tokenizer_sha256(folder / "tokenizer"),
        "vocab_size": vocab_size,
        "bos_id": bos_id,
        "eos_id": eos_id,
        "sizes": {split: asdict(size) for split, size in sizes.items()},
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")


def _tokenizer_sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
