"""gRPC calls as bytes, for servers without encryption. This module needs only Python's standard library."""


def grpc(path: str, message: bytes) -> bytes:
    """A gRPC call as bytes of HTTP/2: preface, settings, headers without compression, and the message."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    def field(name: str, value: str) -> bytes:
        return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()

    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
    fields += [("content-type", "application/grpc"), ("te", "trailers")]
    headers = b"".join(field(name, value) for name, value in fields)
    body = b"\0" + len(message).to_bytes(4, "big") + message
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, headers) + frame(0, 1, 1, body)
