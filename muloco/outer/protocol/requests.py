"""Requests between workers outside the rounds, as they travel.

A request carries random bytes, and a tag with the key of the run over these bytes and the content of the request. The
tags of the answer cover the same random bytes. Therefore a process without the key gets no answer and changes nothing,
and forged answers and copies of earlier answers are recognized and refused. A copy of a request is answered, which does
no harm: a request that is repeated changes nothing, and whoever could copy the request has already been able to read
the answer. Nothing is encrypted.
"""

import hmac
import io
from collections.abc import Callable, Iterator

from muloco.outer.protocol.authentication import NONCE_BYTES, TAG_BYTES, Key, new_nonce

PIECE = 2**20
"""Bytes of a body that are sent or read at once."""


class Request:
    """A request for a path.

    Args:
        key: of the run.
        address: of the worker that is asked, as that worker knows it.
        path: such as `/round/NAME`.
    """

    def __init__(self, key: Key, address: str, path: str):
        self._key = key
        self._address = address
        self.path = path
        self.nonce = new_nonce()
        self.tag = key.tag("request", "GET", path, address, self.nonce)

    def read(self, status: int, length: int, tag: bytes, read: Callable[[int], bytes]) -> bytes | None:
        """Returns the body of an answer, or None if the worker has no answer. Memory is allocated only for a length
        that is authenticated.

        Args:
            status: of the answer.
            length: bytes of its body.
            tag: its first tag.
            read: returns up to so many bytes of what follows; empty: nothing more comes.

        Raises:
            OSError: the answer is incomplete, or it was not made by a holder of the key for this request.
        """
        if not self._key.holds(tag, "answer", self.nonce, self.path, status, length):
            raise OSError(f"what answers at {self._address} does not have the secret of this run")
        body, end = io.BytesIO(), self._key.begin("body", self.nonce)
        while body.tell() < length and (piece := read(min(PIECE, length - body.tell()))):
            end.update(piece)
            body.write(piece)
        if not hmac.compare_digest(read(TAG_BYTES), end.digest()):
            raise OSError(f"the answer of {length} bytes is incomplete or damaged")
        return body.getvalue() if status == 200 else None


def is_authentic(key: Key, address: str, path: str, nonce: bytes, tag: bytes) -> bool:
    """Whether a request to the worker at `address` was made by a holder of the key."""
    return len(nonce) == NONCE_BYTES and key.holds(tag, "request", "GET", path, address, nonce)


class Answer:
    """The answer to a request that is authentic.

    Args:
        key: of the run.
        path: of the request.
        nonce: of the request.
        body: the answer; None: there is none.
    """

    def __init__(self, key: Key, path: str, nonce: bytes, body: bytes | None):
        self._body = memoryview(body or b"")
        self._end = key.begin("body", nonce)
        self.status = 404 if body is None else 200
        self.length = len(self._body)
        """Bytes of the body; a tag of `TAG_BYTES` follows."""
        self.tag = key.tag("answer", nonce, path, self.status, self.length)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yields the body in pieces, and then its tag. To be called once."""
        for start in range(0, self.length, PIECE):
            piece = self._body[start : start + PIECE]
            self._end.update(piece)
            yield piece
        yield self._end.digest()
