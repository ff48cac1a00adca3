"""Reads a part of a checkpoint as data: no code from its files is executed, whoever has written them.

torch writes two kinds of pickles into a part, and its own reader unpickles both without restriction: the file
`.metadata`, the index of the part, and every value that is not a tensor. Here `.metadata` is read by an unpickler that
accepts only the few names that torch writes into it. It replaces them by inert objects, from whose fields torch's
objects are then built. Values are read as by `torch.load(..., weights_only=True)`.
"""

import io
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem

from muloco.runs.manifest import METADATA

_CLASSES = (
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
    TensorProperties,
    ChunkStorageMetadata,
    BytesStorageMetadata,
    StorageMeta,
    _StorageInfo,
)
_RECORDS = {(class_.__module__, class_.__name__) for class_ in _CLASSES}
"""Classes in `.metadata`, by module and name."""
_UNUSED = {
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),  # Python 3.13
    ("builtins", "getattr"),  # Python 3.11.0 to 3.11.3 pickle the memory format with it
}
"""Names in `.metadata` whose values are not needed."""
_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)
"""Exceptions that damaged pickles and archives raise."""


class UnreadablePart(ValueError):
    """A part cannot be read as a part of a checkpoint; the message says why in one line."""


class PartReader(dcp.FileSystemReader):
    """torch's reader of a part, except that `.metadata` is read as data. Raises UnreadablePart as `read_metadata`
    does."""

    def __init__(self, part: Path):
        super().__init__(part)
        self._metadata = read_metadata(part)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self._metadata


class _Planner(dcp.DefaultLoadPlanner):
    """torch's planner, except that values are read as data."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        plain = io.BytesIO()
        torch.save(_plain(value), plain)  # torch's planner loads it again and puts it in its place
        plain.seek(0)
        super().load_bytes(read_item, plain)


def load(states: dict[str, Any], part: Path, *, no_dist: bool = False) -> None:
    """Fills states from a part, as `torch.distributed.checkpoint.load` does.

    Args:
        states: tensors, nested values or stateful objects, by name.
        no_dist: whether this process reads by itself, and not together with the other ranks.

    Raises:
        UnreadablePart: the part is damaged, or does not hold these states.
    """
    reader = PartReader(part)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as `no_dist` asks for
            dcp.load(states, storage_reader=reader, planner=_Planner(), no_dist=no_dist)
    except CheckpointException as failure:
        error = next(iter(failure.failures.values()))[0]
        raise UnreadablePart(f"{part} cannot be loaded: {_line(error)}") from failure
    except _DAMAGE as error:
        raise UnreadablePart(f"{part} cannot be loaded: {_line(error)}") from error


def check(part: Path) -> None:
    """Reads the metadata of a part and all its values, but no tensor. Raises UnreadablePart if they are damaged, or not
    data."""
    metadata = read_metadata(part)
    for index, place in metadata.storage_data.items():
        if isinstance(metadata.state_dict_metadata.get(index.fqn), BytesStorageMetadata):
            path = part / place.relative_path
            try:
                with path.open("rb") as file:
                    file.seek(place.offset)
                    _plain(io.BytesIO(file.read(place.length)))
            except _DAMAGE as error:
                raise UnreadablePart(f"{path}: {index.fqn} cannot be read as data: {_line(error)}") from error


def read_metadata(part: Path) -> Metadata:
    """Reads the index of a part: which file holds which tensor or value. Raises UnreadablePart if the file is damaged,
    or is not the metadata of a checkpoint."""
    path = part / METADATA
    try:
        with path.open("rb") as file:
            return _metadata(_Unpickler(file).load())
    except _DAMAGE as error:
        raise UnreadablePart(f"{path} cannot be read as the metadata of a checkpoint: {_line(error)}") from error


def _plain(value: io.BytesIO) -> Any:
    return torch.load(value, map_location="cpu", weights_only=True)


def _line(error: BaseException) -> str:
    """Returns the first sentence of an error message, which may have many lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, pickle.UnpicklingError) and "Unsupported" in str(error):
        lines = [line for line in lines if "Unsupported" in line or "GLOBAL" in line][:1] or lines
    return lines[0][:300] if lines else type(error).__name__


class _Record:
    """An inert object that keeps the values that a pickle passes to it."""

    state: Any = None

    def __init__(self, *values: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Accepts only the names in `.metadata`. The stand-ins are made for each file, so that a file that modifies them
    affects nothing else."""

    def __init__(self, file: Any):
        super().__init__(file)
        self._known: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            self._known[module, name] = self._stand_in(module, name)
        return self._known[module, name]

    def _stand_in(self, module: str, name: str) -> Any:
        if (module, name) in _RECORDS:
            return type(name, (_Record,), {})
        if (module, name) in _UNUSED:
            return lambda *values: None
        if (module, name) == ("torch", "Size"):
            return lambda values=(): tuple(values)
        if module == "torch" and isinstance(found := vars(torch).get(name), torch.dtype):
            return found
        raise pickle.UnpicklingError(f"it names {module}.{name}, which does not occur in checkpoints")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to an object outside the file")


def _metadata(record: Any) -> Metadata:
    """Returns torch's metadata with the contents of a record. Raises an error of `_DAMAGE` if it is not valid."""
    state = _state(record, "Metadata")
    entries, places = state["state_dict_metadata"], state["storage_data"]
    if type(entries) is not dict or type(places) is not dict:
        raise ValueError("it is no table")
    return Metadata(
        state_dict_metadata={_text(name): _entry(entry) for name, entry in entries.items()},
        storage_data=dict(_places(places)),
        storage_meta=StorageMeta(),
    )


def _entry(record: Any) -> TensorStorageMetadata | BytesStorageMetadata:
    if isinstance(record, _Record) and type(record).__name__ == "BytesStorageMetadata":
        return BytesStorageMetadata()
    state = _state(record, "TensorStorageMetadata")
    dtype = _state(state["properties"], "TensorProperties")[0]
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{dtype!r} is not a dtype")
    chunks = (_state(chunk, "ChunkStorageMetadata") for chunk in state["chunks"])
    return TensorStorageMetadata(
        properties=TensorProperties(dtype=dtype),
        size=_size(state["size"]),
        chunks=[ChunkStorageMetadata(offsets=_size(chunk["offsets"]), sizes=_size(chunk["sizes"])) for chunk in chunks],
    )


def _places(places: dict[Any, Any]) -> Iterator[tuple[MetadataIndex, _StorageInfo]]:
    for key, value in places.items():
        index, place = _state(key, "MetadataIndex"), _state(value, "_StorageInfo")
        file = _text(place["relative_path"])
        if Path(file).name != file or file == "..":
            raise ValueError(f"it refers to the file {file!r}")
        if place.get("transform_descriptors"):
            raise ValueError("its files are transformed")
        offset = index.get("offset")
        yield (
            MetadataIndex(
                _text(index["fqn"]),
                None if offset is None else _size(offset),
                None if index.get("index") is None else _count(index["index"]),
            ),
            _StorageInfo(relative_path=file, offset=_count(place["offset"]), length=_count(place["length"])),
        )


def _state(record: Any, name: str) -> Any:
    if not isinstance(record, _Record) or type(record).__name__ != name:
        raise ValueError(f"it has another object in the place of {name}")
    return record.state


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r} is not a name")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a number of elements or bytes")
    return value


def _size(values: Any) -> torch.Size:
    return torch.Size([_count(value) for value in values])
