"""SHA-256 of files, while they are written and afterwards."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

_BLOCK = 2**22
"""Number of bytes that are read at once."""


class DigestingStream:
    """Writes to a binary file and computes the digest of the written bytes. It cannot seek or be read, so the digest is
    that of the file.

    Args:
        file: open for writing, and empty.
    """

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._digest = hashlib.sha256()
        self.bytes = 0
        """Written so far."""

        self.flush, self.fileno, self.close = file.flush, file.fileno, file.close

    def write(self, data: bytes | bytearray | memoryview) -> int:
        self._digest.update(data)
        self.bytes += memoryview(data).nbytes
        return self._file.write(data)

    def tell(self) -> int:
        return self.bytes

    @property
    def sha256(self) -> str:
        """Returns the SHA-256 of everything that was written so far, as 64 hexadecimal digits."""
        return self._digest.hexdigest()


def sha256_of(path: Path, tell: Callable[[int], None] | None = None) -> str:
    """Returns the SHA-256 of a file, as 64 hexadecimal digits.

    Args:
        tell: called regularly with the number of bytes that were read since the last call.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            if tell is not None:
                tell(len(block))
    return digest.hexdigest()
