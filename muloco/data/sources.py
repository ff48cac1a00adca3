"""Sources: where text comes from. Each gives its records in a fixed order and can go on from any place in it.

    embedded                        the sources of the running Python's standard library
    PATH                            a file, or a folder with all files below it in the order of their names
    hf:OWNER/NAME[:CONFIG][@SPLIT]  a data set on the Hugging Face hub, streamed; also hf:PATH of a local one

A *place* is a small JSON value that says where the next record is; only the source that gave it understands it.
"""

import errno
import json
import os
import re
import stat
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

from muloco.data.corpus import Corpus, embedded_corpus
from muloco.data.errors import BadRecord, Skipped
from muloco.data.readers import BrokenFile, endings, format_of, text_in_row
from muloco.errors import UserError
from muloco.settings.data import EMBEDDED, HUB, is_hub

Place = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of a source."""

    file: str
    unit: str
    """What the records of its file are called."""
    number: int
    text: Callable[[], str]
    """Takes out the text. Raises BadRecord where there is none."""
    place: Place
    """Where the source is read from on for this record to come first."""
    done: int = 0
    """Bytes read so far, for a progress bar; 0 if not known."""

    @property
    def where(self) -> str:
        return f"{self.file}, {self.unit} {self.number}"


class Source(ABC):
    """Where text comes from."""

    name: str
    """As the user wrote it."""
    left_out: Sequence[tuple[str, str]] = ()
    """Paths that exist and are skipped, with the reasons, as far as this is known before anything is read."""

    @property
    def size(self) -> int | None:
        """Bytes on disk; None where that is not known."""
        return None

    @property
    @abstractmethod
    def key(self) -> Any:
        """A JSON value that changes when the text may have: what a cached result is found by."""

    @property
    def identity(self) -> Any:
        """A JSON value equal for copies of the same data on other machines: what a position is a position in."""
        return self.key

    @abstractmethod
    def read(self, skipped: Skipped, place: Place | None = None) -> Iterator[Record]:
        """Yields the records from a place on, or from the start. Tells `skipped` of what is not a record (an empty or
        broken file, or an entry of `left_out`)."""


def open_source(name: str, text_field: str) -> Source:
    """The source that `name` means (see the module); `text_field` is the field or column that holds the text. Raises
    UserError if there is no such file or folder, or none that can be read, or the name is no name."""
    if name == EMBEDDED:
        return Embedded()
    return Hub(name, text_field) if is_hub(name) else Files(name, text_field)


class Embedded(Source):
    """The embedded corpus, in the order of its hashes."""

    name = EMBEDDED

    @cached_property
    def corpus(self) -> Corpus:
        return embedded_corpus()

    @cached_property
    def size(self) -> int:
        return sum(len(document.text.encode()) for document in self.corpus.documents)

    @property
    def key(self) -> Any:
        return self.corpus.sha256

    def read(self, skipped: Skipped, place: Place | None = None) -> Iterator[Record]:
        done = 0
        first = 0 if place is None else place["document"]
        for index, document in enumerate(self.corpus.documents[first:], start=first):
            done += len(document.text)
            yield Record(
                file=document.name,
                unit="document",
                number=1,
                text=partial(str, document.text),
                place={"document": index},
                done=done,
            )


@dataclass(frozen=True)
class _File:
    name: str
    path: Path
    size: int
    mtime_ns: int


class Files(Source):
    """A file, or all files below a folder, sorted by name. Hidden ones (`.name`) are ignored; links are followed.

    Files of no known kind are skipped and named. A file or folder that cannot be read is an error.

    The cache key is the files' paths, sizes and modification times, since hashing the content at each start would read
    all of it. The identity has only names (relative to the folder) and sizes, so that copies on other machines agree.
    """

    def __init__(self, name: str, text_field: str):
        self.name = name
        self._root, self._text_field = Path(name).absolute(), text_field
        self._files: list[_File] = []
        self.left_out: list[tuple[str, str]] = []
        try:
            if not os.path.lexists(self._root):
                raise UserError(
                    f"there is no file or folder {name}; a corpus is a path, {EMBEDDED}, or {HUB}OWNER/NAME"
                )
            self._list()
        except OSError as error:
            raise UserError(_unreadable(error)) from error

    @cached_property
    def size(self) -> int:
        return sum(file.size for file in self._files)

    @property
    def key(self) -> Any:
        listing = [[file.name, file.size, file.mtime_ns] for file in self._files]
        return [str(self._root), self._text_field, listing, *map(list, self.left_out)]

    @property
    def identity(self) -> Any:
        return [self._root.name, self._text_field, [[file.name, file.size] for file in self._files]]

    def read(self, skipped: Skipped, place: Place | None = None) -> Iterator[Record]:
        if place is None:
            for where, reason in self.left_out:
                skipped.skip(where, reason)
            place = {"file": 0, "record": 0}
        for index in range(place["file"], len(self._files)):
            yield from self._read(index, place["record"] if index == place["file"] else 0, skipped)

    def _read(self, index: int, after: int, skipped: Skipped) -> Iterator[Record]:
        """The records of one file behind the first `after` ones."""
        file, before = self._files[index], sum(file.size for file in self._files[:index])
        form = format_of(file.name)
        assert form is not None, file.name
        last = 0
        try:
            with file.path.open("rb") as raw_file:
                for number, raw in form.records(file.path, raw_file, self._text_field):
                    if number > after:
                        yield Record(
                            file=str(file.path),
                            unit=form.unit,
                            number=number,
                            text=partial(form.text_of, raw, self._text_field),
                            place={"file": index, "record": last},
                            done=before + (file.size if raw_file.closed else raw_file.tell()),
                        )
                    last = number
            if last == 0:
                skipped.skip(str(file.path), "an empty file")
        except BrokenFile as error:
            skipped.skip(f"{file.path}, all after {form.unit} {last}", str(error))
        except OSError as error:
            raise UserError(f"{file.path} cannot be read: {error.strerror or error}") from error

    def _list(self) -> None:
        if self._root.is_dir():
            paths, self.left_out = _below(self._root)
            names = {path: path.relative_to(self._root).as_posix() for path in paths}
        else:
            names = {self._root: self._root.name}
        for path, name in sorted(names.items(), key=lambda item: item[1]):
            status = path.stat()
            if format_of(name) is None or not stat.S_ISREG(status.st_mode):
                self.left_out.append((str(path), f"not a file that can be read ({endings()})"))
                continue
            if not os.access(path, os.R_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            self._files.append(_File(name, path, status.st_size, status.st_mtime_ns))
        if not self._files:
            held = [Path(where).relative_to(self._root).as_posix() for where, _ in self.left_out[:5]]
            names_held = f"; it holds {', '.join(held)}" if self._root.is_dir() and held else ""
            raise UserError(f"{self.name}: no file that can be read{names_held}; a file ends in {endings()}")


def _below(root: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """All files below a folder, and the links that add nothing. Each folder is read once, however many links lead to
    it. Raises OSError if a folder cannot be read."""
    files: list[Path] = []
    left_out: list[tuple[str, str]] = []
    read: dict[tuple[int, int], Path] = {}
    folders, links = [root], deque[Path]()
    while folders or links:  # real folders first, so that a folder is read under its own name if it has one
        folder = folders.pop() if folders else links.popleft()
        status = folder.stat()
        if first := read.get(identity := (status.st_dev, status.st_ino)):
            left_out.append((str(folder), f"the folder {first}, which is read under that name"))
            continue
        if folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve()):
            left_out.append((str(folder), "a circular link, to a folder that contains it"))
            continue
        read[identity] = folder
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if not entry.name.startswith("."):
                    kind = files if not entry.is_dir() else links if entry.is_symlink() else folders
                    kind.append(Path(entry.path))
    return files, left_out


def _unreadable(error: OSError) -> str:
    """Describes why a file or folder cannot be read."""
    path = str(error.filename)
    if os.path.islink(path):
        if error.errno == errno.ELOOP:
            return f"{path} is a circular link; remove it"
        if error.errno == errno.ENOENT:
            return f"{path} is a broken link: {os.readlink(path)} does not exist; restore it, or remove the link"
    return f"{path} cannot be read: {error.strerror}"


class Hub(Source):
    """A data set on the Hugging Face hub, read as a stream; the split is `train` where none is named.

    Its key and identity are its name: name a new cache or delete the old entry when the data set has changed.
    """

    EVERY = 500

    def __init__(self, name: str, text_field: str):
        match = re.fullmatch(r"(?P<path>[^:@]+)(:(?P<config>[^:@]+))?(@(?P<split>[^:@]+))?", name.removeprefix(HUB))
        if match is None or not (re.fullmatch(r"[\w.-]+/[\w.-]+", match["path"]) or os.path.exists(match["path"])):
            raise UserError(f"{name} is not the name of a data set; write {HUB}OWNER/NAME[:CONFIG][@SPLIT]")
        self.name = name
        self._path, self._config, self._split = match["path"], match["config"], match["split"] or "train"
        self._text_field = text_field

    @property
    def key(self) -> Any:
        return [self.name, self._text_field]

    def read(self, skipped: Skipped, place: Place | None = None) -> Iterator[Record]:
        """As `Source.read`. `datasets` can go on without reading what came before (`state_dict`). That state is noted
        every `EVERY` rows; a place is the last note and the rows since then, which are read again."""
        import datasets

        try:
            dataset = datasets.load_dataset(self._path, name=self._config, split=self._split, streaming=True)
        except (ValueError, OSError) as error:
            raise UserError(f"{self.name}: {' '.join(str(error).split())}") from error
        if dataset.column_names is not None and self._text_field not in dataset.column_names:
            raise UserError(
                f"{self.name} has no field {self._text_field!r}; it has: {', '.join(dataset.column_names)} "
                "(data.text_field)"
            )
        place = dict(place or {"row": 0, "state": None, "skip": 0})
        if place["state"] is not None:
            dataset.load_state_dict(json.loads(place["state"]))
        for row in islice(dataset, place["skip"], None):
            number = place["row"] + 1
            text = partial(text_in_row, row, self._text_field)
            yield Record(file=self.name, unit="row", number=number, text=text, place=dict(place))
            place |= {"row": number, "skip": place["skip"] + 1}
            if place["skip"] == self.EVERY:
                place |= {"state": json.dumps(dataset.state_dict()), "skip": 0}


def read_texts(source: Source, skipped: Skipped, advance: Callable[[int], object] = lambda _: None) -> Iterator[str]:
    """All texts of a source, once; what holds none goes to `skipped`. `advance` is told `Record.done` of each
    record."""
    for record in source.read(skipped):
        advance(record.done)
        try:
            text = record.text()
        except BadRecord as problem:
            skipped.skip(record.where, str(problem))
        else:
            yield text
