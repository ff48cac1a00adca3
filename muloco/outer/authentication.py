"""Keys of a run: what its workers say to each other carries a tag that only the holders of the run's secret can make.

A tag proves that a holder of the secret has made a message for this purpose, and (as each conversation begins with
random bytes of the listener) that the message is no copy of an older one. Tags hide nothing and make nobody speak:
whoever reaches the network can read what is said, and can interrupt it. Every holder of the secret is trusted.
"""

import hashlib
import hmac
from collections.abc import Iterator

Field = str | int | bytes | bytearray | memoryview
TAG_BYTES = 32
NONCE_BYTES = 16


class Key:
    """A secret from which tags and further keys are made, by HMAC-SHA256 (RFC 2104).

    Args:
        secret: at least 16 bytes that nobody else knows.

    Raises:
        ValueError: the secret is too short.
    """

    def __init__(self, secret: bytes):
        if len(secret) < 16:
            raise ValueError(f"a secret must have at least 16 bytes; got {len(secret)}")
        self._secret = secret

    def tag(self, purpose: str, *fields: Field) -> bytes:
        """Returns the `TAG_BYTES` bytes that prove that a holder of the key has said this.

        Args:
            purpose: what the fields mean, so that a tag for one purpose does not serve for another one.
            fields: the content. Texts, numbers and bytes differ, as do the ways to divide the same bytes into fields.
        """
        made = hmac.new(self._secret, digestmod=hashlib.sha256)
        for piece in _pieces((purpose, *fields)):
            made.update(piece)
        return made.digest()

    def begin(self, purpose: str, *fields: Field) -> "hmac.HMAC":
        """Returns the begin of a tag over these fields, and over one more that follows in pieces (`update`)."""
        made = hmac.new(self._secret, digestmod=hashlib.sha256)
        for piece in _pieces((purpose, "in pieces", *fields)):
            made.update(piece)
        return made

    def holds(self, tag: bytes, purpose: str, *fields: Field) -> bool:
        """Whether this is the tag of the fields. Takes equally long for all wrong tags."""
        return hmac.compare_digest(tag, self.tag(purpose, *fields))

    def derive(self, purpose: str, *fields: Field) -> "Key":
        """Returns a further key. It says nothing about this one."""
        return Key(self.tag("key", purpose, *fields))

    def stream(self, purpose: str, count: int) -> bytes:
        """Returns `count` bytes that look random to everybody who does not hold the key, by SHAKE-256."""
        return hashlib.shake_256(self.tag("stream", purpose)).digest(count)


def _pieces(fields: tuple[Field, ...]) -> Iterator[bytes | bytearray | memoryview]:
    """Yields each field after its kind and its length in bytes."""
    for field in fields:
        if isinstance(field, str):
            kind, content = b"s", memoryview(field.encode("utf-8", "surrogatepass"))
        elif isinstance(field, int):
            kind, content = b"i", memoryview(str(field).encode())
        else:
            kind, content = b"b", memoryview(field)
        yield kind + content.nbytes.to_bytes(8, "big")
        yield content
