"""Keys and tags: every message between workers carries a tag that only holders of the run's secret can compute.

A tag proves that a holder of the secret made this message for this purpose. Each conversation begins with random bytes
from its receiver, so a tag also proves that the message is not a copy of an older one. Tags do not encrypt, and they do
not prevent interruptions: anyone who can reach the network can still read messages and disturb the connections. Every
holder of the secret is trusted.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterator

Field = str | int | bytes | bytearray | memoryview
TAG_BYTES = 32
NONCE_BYTES = 16


def new_nonce() -> bytes:
    """Returns `NONCE_BYTES` random bytes."""
    return secrets.token_bytes(NONCE_BYTES)


class Key:
    """A secret from which tags and further keys are made, by HMAC-SHA256 (RFC 2104).

    Args:
        secret: at least 16 bytes that are known only to the workers of the run.

    Raises:
        ValueError: the secret is too short.
    """

    def __init__(self, secret: bytes):
        if len(secret) < 16:
            raise ValueError(f"a secret must have at least 16 bytes; got {len(secret)}")
        self._secret = secret

    def tag(self, purpose: str, *fields: Field) -> bytes:
        """Returns the tag of some fields, `TAG_BYTES` bytes, which only a holder of the key can compute.

        Args:
            purpose: what the fields mean. A tag for one purpose is not valid for another one.
            fields: the content. The types of the fields and the boundaries between them are part of it.
        """
        return hmac.digest(self._secret, b"".join(_pieces((purpose, *fields))), "sha256")

    def begin(self, purpose: str, *fields: Field) -> "hmac.HMAC":
        """Returns an unfinished tag over these fields and one more, whose pieces are then passed to `update`."""
        made = hmac.new(self._secret, digestmod=hashlib.sha256)
        for piece in _pieces((purpose, "in pieces", *fields)):
            made.update(piece)
        return made

    def holds(self, tag: bytes, purpose: str, *fields: Field) -> bool:
        """Whether this is the tag of the fields. The comparison takes equally long for all wrong tags."""
        return hmac.compare_digest(tag, self.tag(purpose, *fields))

    def derive(self, purpose: str, *fields: Field) -> "Key":
        """Returns another key, from which this one cannot be computed."""
        return Key(self.tag("key", purpose, *fields))

    def stream(self, purpose: str, count: int) -> bytes:
        """Returns `count` bytes, by SHAKE-256, that are unpredictable without the key."""
        return hashlib.shake_256(self.tag("stream", purpose)).digest(count)


def _pieces(fields: tuple[Field, ...]) -> Iterator[bytes | bytearray | memoryview]:
    """Yields, for each field, a header with its type and its length in bytes, and then its content."""
    for field in fields:
        if isinstance(field, str):
            kind, content = b"s", memoryview(field.encode("utf-8", "surrogatepass"))
        elif isinstance(field, int):
            kind, content = b"i", memoryview(str(field).encode())
        else:
            kind, content = b"b", memoryview(field)
        yield kind + content.nbytes.to_bytes(8, "big")
        yield content
