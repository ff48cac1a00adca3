"""The prepared folder: a tokenized source on disk, and the checks made when it is opened.

meta.json               what the folder holds: the fields of `Prepared`
tokenizer/              as `muloco.data.tokenizer` writes it
sha256.json, verified.json      see `muloco.data.checksums`
(SPLIT: train, validation or both)
SPLIT.tokens.npy        uint16, or uint32 for a vocabulary over 65536: BOS, text, EOS of each document, end to end
SPLIT.offsets.npy       int64 [documents + 1]: document i is tokens[offsets[i] : offsets[i + 1]]
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from muloco.data.checksums import check_small_files
from muloco.data.errors import DamagedCacheError

FORMAT = 3
SMALL_BYTES = 64 << 20
"""Bytes up to which the checksum of a split's file is verified whenever it is opened, as that is quick."""

_NOT_AN_ARRAY = (ValueError, EOFError, TypeError, OverflowError, MemoryError, SyntaxError, TokenError)
"""Raised by numpy for a damaged file: it reads the header as a Python literal."""


@dataclass(frozen=True)
class Size:
    """How much one split holds. `tokens` counts BOS and EOS."""

    documents: int
    tokens: int
    sha256: str
    """Digest of the contents of the two files."""

    def pairs(self, *, predict_bos: bool) -> int:
        """Number of (input, label) pairs, as `PreparedStream` cuts them."""
        return self.tokens if predict_bos else self.tokens - self.documents


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prepared folder. The two digests and the ids of BOS and EOS fix every token in it.

    `corpus` is the name of the source, `skipped` how many records and files were left out as they held no text,
    `first_skipped` where and why the first of them.
    """

    folder: Path
    corpus: str
    corpus_sha256: str
    tokenizer_sha256: str
    vocab_size: int
    bos_id: int
    eos_id: int
    skipped: int
    first_skipped: str | None
    sizes: dict[str, Size]

    @property
    def tokenizer_identity(self) -> str:
        """Equal for two folders whose tokens mean the same."""
        return f"{self.tokenizer_sha256} {self.bos_id} {self.eos_id}"

    @property
    def tokenizer_folder(self) -> Path:
        return self.folder / "tokenizer"

    def write(self) -> None:
        """Writes meta.json, which completes the folder; everything else is in place."""
        meta = {"format": FORMAT, **asdict(self)}
        del meta["folder"]
        (self.folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")

    def open(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """The tokens (memory-mapped, uint16 or uint32 [tokens]) and offsets (int64 [documents + 1]) of one split.

        Raises:
            ValueError: there is no such split.
            DamagedCacheError: a file is missing, unreadable or of another size or type than meta.json says.
        """
        if split not in self.sizes:
            raise ValueError(f"{self.folder} has no split {split!r}; it has {', '.join(self.sizes)}")
        size = self.sizes[split]
        tokens = self._array(f"{split}.tokens.npy", token_type(self.vocab_size), size.tokens)
        offsets = self._array(f"{split}.offsets.npy", np.dtype(np.int64), size.documents + 1)
        if offsets[0] != 0 or offsets[-1] != size.tokens:
            raise DamagedCacheError(self.folder, f"{split}.offsets.npy does not span {size.tokens} tokens")
        return tokens, offsets

    def _array(self, name: str, dtype: np.dtype, length: int) -> np.ndarray:
        try:
            array = np.load(self.folder / name, mmap_mode="r")
        except (*_NOT_AN_ARRAY, OSError) as error:
            raise DamagedCacheError(self.folder, f"{name} cannot be read ({error})") from error
        if array.dtype != dtype or array.shape != (length,):
            actual = f"{array.dtype} {list(array.shape)}"
            raise DamagedCacheError(self.folder, f"{name} is {actual}, meta.json says {dtype} {[length]}")
        return array.view(np.ndarray)


def token_type(vocab_size: int) -> np.dtype:
    """The smallest of uint16 and uint32 that holds every id of the vocabulary."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def read_prepared(folder: Path, *, verify: bool = False) -> Prepared:
    """Opens a prepared folder and checks that all of it is there; with `verify` the checksums of large files as
    well, at the speed of the disk.

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
        _check_types(prepared)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCacheError(folder, f"meta.json cannot be read ({error!r})") from error
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (prepared.tokenizer_folder / name).is_file():
            raise DamagedCacheError(folder, f"tokenizer/{name} is missing")
    check_small_files(folder)
    if tokenizer_sha256(prepared.tokenizer_folder) != prepared.tokenizer_sha256:
        raise DamagedCacheError(folder, "tokenizer/tokenizer.json is not the one the corpus was tokenized with")
    for split, size in sizes.items():
        tokens, offsets = prepared.open(split)
        compared = verify or tokens.nbytes + offsets.nbytes <= SMALL_BYTES
        if compared and size.sha256 != _sha256(hashlib.sha256(tokens.data), hashlib.sha256(offsets.data)):
            raise DamagedCacheError(folder, f"{split}.tokens.npy or {split}.offsets.npy has been changed")
        if not _rise(offsets):
            raise DamagedCacheError(folder, f"the offsets in {split}.offsets.npy do not increase")
    return prepared


def _check_types(prepared: Prepared) -> None:
    """Raises TypeError if a value in meta.json has the wrong type."""
    sizes = prepared.sizes.values()
    counts = [prepared.vocab_size, prepared.bos_id, prepared.eos_id, prepared.skipped]
    counts += [count for size in sizes for count in (size.documents, size.tokens)]
    texts = [prepared.corpus, prepared.corpus_sha256, prepared.tokenizer_sha256, *(size.sha256 for size in sizes)]
    if any(type(value) is not int or value < 0 for value in counts) or any(type(text) is not str for text in texts):
        raise TypeError("a value has the wrong type")


def _rise(offsets: np.ndarray) -> bool:
    """Whether each offset is above the one before. It is tested in pieces, as there may be hundreds of millions."""
    starts = range(0, len(offsets) - 1, 1 << 20)
    return all(bool((np.diff(offsets[start : start + (1 << 20) + 1]) > 0).all()) for start in starts)


class SplitWriter:
    """Writes the two arrays of one split, document by document, in a memory that does not grow."""

    def __init__(self, folder: Path, split: str, vocab_size: int):
        self.documents = self.tokens = 0
        self._tokens = _ArrayFile(folder / f"{split}.tokens.npy", token_type(vocab_size))
        self._offsets = _ArrayFile(folder / f"{split}.offsets.npy", np.dtype(np.int64))
        self._offsets.append(np.zeros(1))

    def append(self, ids: np.ndarray) -> None:
        """Adds a document: its ids (whole numbers [tokens]), BOS and EOS included."""
        self._tokens.append(ids)
        self.documents += 1
        self.tokens += len(ids)
        self._offsets.append(np.array([self.tokens]))

    def close(self) -> Size:
        """Completes the files."""
        self._tokens.close(self.tokens)
        self._offsets.close(self.documents + 1)
        sha256 = _sha256(self._tokens.sha256, self._offsets.sha256)
        return Size(documents=self.documents, tokens=self.tokens, sha256=sha256)


def _sha256(tokens: Any, offsets: Any) -> str:
    """The digest of a split, from the digests of its two files' contents."""
    return hashlib.sha256(tokens.digest() + offsets.digest()).hexdigest()


class _ArrayFile:
    """A .npy file that grows: numpy leaves room in the header for any length, which is filled in at the end."""

    def __init__(self, path: Path, dtype: np.dtype):
        self._dtype = dtype
        self.sha256 = hashlib.sha256()
        self._file: BinaryIO = path.open("wb", buffering=1 << 20)
        self._write_header(0)
        self._start = self._file.tell()

    def append(self, values: np.ndarray) -> None:
        content = values.astype(self._dtype).tobytes()
        self.sha256.update(content)
        self._file.write(content)

    def close(self, length: int) -> None:
        self._file.seek(0)
        self._write_header(length)
        assert self._file.tell() == self._start
        self._file.close()

    def _write_header(self, length: int) -> None:
        header = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (length,)}
        npy.write_array_header_1_0(self._file, header)


def tokenizer_sha256(folder: Path) -> str:
    """Hex digest of a tokenizer folder's tokenizer.json."""
    return hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
