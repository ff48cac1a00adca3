"""Readers: the records of one file, by its ending. A record is raw; its text is taken out only where it is needed.

`Format.records` yields `(number, raw)` with numbers that rise from 1: lines of a jsonl file (blank ones are passed
over), rows of a parquet file, pieces of a text file.
"""

import codecs
import contextlib
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from muloco.data.errors import BadRecord
from muloco.errors import UserError

PIECE_BYTES = 16 * 1024
"""A text file is cut into documents of at most so many bytes: at a blank line if possible, else at a line's end."""

_BOM = codecs.BOM_UTF8
_ROWS_AT_ONCE = 256
_ENDS = ((b"\n\n", b"\r\n\r\n", b"\r\r"), (b"\n",), (b"\r",))
"""Places where a text may be cut, best first: blank lines with the line ends of Unix, Windows and old Mac OS, then
lines."""
_SAMPLE_BYTES = 1024
_OTHER_BOMS = {  # those of UTF-32 before those of UTF-16, which they begin with
    codecs.BOM_UTF32_LE: "UTF-32LE",
    codecs.BOM_UTF32_BE: "UTF-32BE",
    codecs.BOM_UTF16_LE: "UTF-16LE",
    codecs.BOM_UTF16_BE: "UTF-16BE",
}
_NULS = {  # which bytes of four are mostly NUL in text of European languages, that has no mark
    (False, True, True, True): "UTF-32LE",
    (True, True, True, False): "UTF-32BE",
    (False, True, False, True): "UTF-16LE",
    (True, False, True, False): "UTF-16BE",
}


class BrokenFile(Exception):
    """A file's content ends too early or makes no sense from here on; the message says why."""


def checked_text(value: Any, text_field: str) -> str:
    """`value` if it is a text. Raises BadRecord."""
    if not isinstance(value, str):
        raise BadRecord(f"field {text_field!r} is {type(value).__name__}, not a text")
    if not value or value.isspace():
        raise BadRecord("the text is empty")
    if (place := value.find("\0")) >= 0:
        raise BadRecord(f"character {place + 1} of the text is NUL; a text may not hold NULs")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRecord("the text holds half of a surrogate pair, which no encoding has") from None
    return value


def text_in_row(row: Any, text_field: str) -> str:
    """The text of a record that is an object with named fields. Raises BadRecord."""
    if not isinstance(row, dict):
        raise BadRecord(f"{type(row).__name__}, not an object with a field {text_field!r}")
    if text_field not in row:
        raise BadRecord(f"no field {text_field!r}; it has: {', '.join(map(str, row)) or 'none'}")
    return checked_text(row[text_field], text_field)


def _lines(path: Path, raw_file: IO[bytes], text_field: str) -> Iterator[tuple[int, bytes]]:
    with _text_file(path, raw_file) as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(_BOM).strip() if number == 1 else line.strip()
            if line:
                yield number, line


def _json_text(line: bytes, text_field: str) -> str:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise BadRecord(f"not UTF-8 (byte {error.start} of the line)") from None
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"not JSON ({error})") from None
    return text_in_row(row, text_field)


def _pieces(path: Path, raw_file: IO[bytes], text_field: str) -> Iterator[tuple[int, bytes]]:
    with _text_file(path, raw_file) as file:
        number, rest = 0, b""
        while block := file.read(PIECE_BYTES):
            rest = rest + block if number or rest else block.removeprefix(_BOM)
            while len(rest) > PIECE_BYTES:
                cut = _cut(rest)
                number += 1
                yield number, rest[:cut]
                rest = rest[cut:]
        if rest.strip() or number:
            yield number + 1, rest


def _cut(data: bytes) -> int:
    """Where the first piece of more than `PIECE_BYTES` bytes ends."""
    for marks in _ENDS:
        places = [(data.rfind(mark, PIECE_BYTES // 2, PIECE_BYTES), len(mark)) for mark in marks]
        if (last := max(places))[0] >= 0:
            return sum(last)
    cut = PIECE_BYTES
    while cut > PIECE_BYTES - 4 and data[cut] & 0xC0 == 0x80:  # not inside a UTF-8 character
        cut -= 1
    return cut


def _plain_text(piece: bytes, text_field: str) -> str:
    try:
        text = piece.decode()
    except UnicodeDecodeError as error:
        raise BadRecord(f"not UTF-8 (byte {error.start} of the piece)") from None
    return checked_text(text, text_field)


def _rows(path: Path, raw_file: IO[bytes], text_field: str) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        file = pyarrow.parquet.ParquetFile(raw_file)
        if text_field not in file.schema_arrow.names:
            raise BrokenFile(f"no column {text_field!r}; it has: {', '.join(file.schema_arrow.names)}")
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[text_field]):
            for value in batch.column(0):
                number += 1
                yield number, value
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BrokenFile(f"not parquet, or damaged ({str(error).splitlines()[0]})") from None


def _parquet_text(value: Any, text_field: str) -> str:
    try:
        return checked_text(value.as_py(), text_field)
    except UnicodeDecodeError:
        raise BadRecord("not UTF-8") from None


@contextlib.contextmanager
def _text_file(path: Path, raw_file: IO[bytes]) -> Iterator[IO[bytes]]:
    """The uncompressed content of a file. Raises UserError if it begins like text in another encoding than UTF-8, which
    would be lost, and BrokenFile within the context, where the file cannot be uncompressed any further."""
    try:
        with _uncompressed(path, raw_file) as file:
            if encoding := _other_encoding(file.peek(_SAMPLE_BYTES)[:_SAMPLE_BYTES]):
                raise UserError(
                    f"{path} is text in {encoding}, not UTF-8; convert it (iconv -f {encoding} -t UTF-8), or remove it"
                )
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BrokenFile(f"not gzip, damaged or cut off ({error})") from None


def _other_encoding(start: bytes) -> str | None:
    """The name of UTF-16 or UTF-32 if a file's first bytes are text in it, by a byte order mark or by the places of
    NULs."""
    for mark, encoding in _OTHER_BOMS.items():
        if start.startswith(mark):
            return encoding
    if len(start) < 8:
        return None
    nuls = [start[place::4].count(0) / len(start[place::4]) for place in range(4)]
    for pattern, encoding in _NULS.items():
        if all((share > 0.5) == nul for share, nul in zip(nuls, pattern, strict=True)):
            return encoding
    return None


def _uncompressed(path: Path, raw_file: IO[bytes]) -> Any:
    if path.name.lower().endswith(".gz"):
        return gzip.open(raw_file)
    if path.name.lower().endswith(".zst"):
        return io.BufferedReader(_Zstandard(raw_file), 1 << 18)
    return raw_file


class _Zstandard(io.RawIOBase):
    """All frames of a Zstandard file. zstandard's own reader takes a file that was cut off for one that ends there."""

    def __init__(self, raw_file: IO[bytes]):
        import zstandard

        self._error = zstandard.ZstdError
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
        self._file = raw_file
        self._frame: Any = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._output and (data := self._input or self._file.read(1 << 17)):
            self._frame = self._frame or self._decompressor.decompressobj()
            try:
                self._output, self._input = memoryview(self._frame.decompress(data)), b""
            except self._error as error:
                raise BrokenFile(f"not Zstandard, or damaged ({error})") from None
            if self._frame.eof:
                self._input, self._frame = self._frame.unused_data, None
        if not self._output and self._frame is not None:
            raise BrokenFile("cut off inside a Zstandard frame")
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count


@dataclass(frozen=True, kw_only=True)
class Format:
    """How files of one ending are read."""

    ending: str
    """Without that of a compression."""
    compressions: tuple[str, ...] = ("", ".gz", ".zst")
    unit: str
    """What the records of a file are called."""
    records: Callable[[Path, IO[bytes], str], Iterator[tuple[int, Any]]]
    """Yields the records of a file that is open at its start, given the field or column that holds the text; see the
    module. Raises BrokenFile where its content cannot be read any further."""
    text_of: Callable[[Any, str], str]
    """Returns the text in a record, given the same field. Raises BadRecord where there is none."""

    @property
    def endings(self) -> tuple[str, ...]:
        return tuple(self.ending + compression for compression in self.compressions)


FORMATS = (
    Format(ending=".jsonl", unit="line", records=_lines, text_of=_json_text),
    Format(ending=".txt", unit="piece", records=_pieces, text_of=_plain_text),
    Format(ending=".parquet", compressions=("",), unit="row", records=_rows, text_of=_parquet_text),
)


def format_of(name: str) -> Format | None:
    """Returns how to read the file with a name; None: it cannot be read."""
    return next((form for form in FORMATS if name.lower().endswith(form.endings)), None)


def endings() -> str:
    """All endings that can be read, for messages."""
    return ", ".join(ending for form in FORMATS for ending in form.endings)
