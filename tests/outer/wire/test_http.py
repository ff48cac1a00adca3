"""The answers of a worker's server, the clients that get them, and the answers that are accepted."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from muloco.outer.protocol.answers import COMMITTED, FAILED, KEPT
from muloco.outer.protocol.authentication import Key
from muloco.outer.wire import http
from muloco.outer.wire.http import NONCE, TAG

from ...patience import PATIENCE
from ..over_torchft import KEY
from ..peer_server import PeerServer, ask, fetch, fetch_part, inquire

OTHER = Key(b"another secret than that of the run")
NONCE_BYTES = bytes(range(16))


@pytest.fixture
def server() -> Iterator[PeerServer]:
    opened = PeerServer("127.0.0.1", KEY)
    yield opened
    opened.close()


def request(
    server: PeerServer,
    path: str,
    *,
    key: Key = KEY,
    method: str = "GET",
    signed: str | None = None,
    to: str | None = None,
    nonce: bytes = NONCE_BYTES,
    purpose: str = "request",
) -> bytes:
    """A request as it travels, with a tag over these fields."""
    tag = key.tag(purpose, "GET", signed or path, to or server.address, nonce)
    return f"{method} {path} HTTP/1.1\r\n{NONCE}: {nonce.hex()}\r\n{TAG}: {tag.hex()}\r\n\r\n".encode()


def answer(server: PeerServer, data: bytes) -> bytes:
    """All that comes back."""
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(2**16), b""))


def status(data: bytes) -> int:
    return int(data.split(b" ", 2)[1])


def body(data: bytes) -> bytes:
    return data.partition(b"\r\n\r\n")[2]


REFUSED = {
    "no tag": lambda server, path: f"GET {path} HTTP/1.1\r\n\r\n".encode(),
    "no tag, but a nonce": lambda server, path: f"GET {path} HTTP/1.1\r\n{NONCE}: {'00' * 16}\r\n\r\n".encode(),
    "another secret": lambda server, path: request(server, path, key=OTHER),
    "for another path": lambda server, path: request(server, path, signed="/round/other"),
    "for another server": lambda server, path: request(server, path, to="127.0.0.1:1"),
    "for another purpose": lambda server, path: request(server, path, purpose="answer"),
    "a short nonce": lambda server, path: request(server, path, nonce=b"1"),
    "no hexadecimal digits": lambda server, path: request(server, path).replace(
        f"{TAG}: ".encode(), f"{TAG}: x".encode()
    ),
    "another method": lambda server, path: request(server, path).replace(b"GET", b"POST", 1),
    "a line that is too long": lambda server, path: request(server, path + "x" * 2**16),
    "no HTTP": lambda server, path: b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "a header that is no text": lambda server, path: request(server, path).replace(b": ", b": \xff\xfe", 1),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("kind", ["round", "state", "part", "mine"])
def test_who_has_no_tag_gets_no_word_and_changes_nothing(what: str, kind: str, server: PeerServer) -> None:
    server.offer("name", b"a state")
    server.publish("name", b"a part")
    server.questions["mine"] = lambda name: b"mine"
    heard = answer(server, REFUSED[what](server, f"/{kind}/name"))
    assert heard == b"" or status(heard) == 403 and body(heard) == b""
    assert server.begin_vote("name"), "nobody has given the round up"


def test_whoever_has_the_secret_is_answered(server: PeerServer) -> None:
    assert status(answer(server, request(server, "/round/name"))) == 200
    assert not server.begin_vote("name")
    assert ask(server.address, "name", key=KEY, seconds=10) == FAILED
    assert ask(server.address, "name", key=OTHER, seconds=10) is None


@pytest.mark.parametrize("said", [b"line 7\n", b"", None])
def test_further_kinds_of_questions_can_be_answered(said: bytes | None, server: PeerServer) -> None:
    server.questions["commits"] = lambda name: said
    assert inquire(server.address, "commits", key=KEY, seconds=10) == said
    assert inquire(server.address, "unknown", key=KEY, seconds=10) is None


def test_a_copy_of_a_request_changes_nothing(server: PeerServer) -> None:
    """Copies of all requests that were made do not push out what this rank has said about its own rounds."""
    asked = [request(server, f"/round/{number}") for number in range(KEPT + 5)]
    for data in asked:
        answer(server, data)
    server.say("round", COMMITTED)
    for data in asked:
        answer(server, data)
    assert ask(server.address, "round", key=KEY, seconds=10) == COMMITTED


class Between:
    """A program between a worker and a peer's server, which changes what the server answers.

    Args:
        change: what it makes of all the bytes of an answer; None: it is as slow as it can be, a byte at a time.
    """

    def __init__(self, server: PeerServer, change):
        self._server, self._change = server, change
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        server.server.address = self.address  # under which it is asked
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        host, port = "127.0.0.1", self._server.server.server_port
        with contextlib.suppress(OSError):
            while True:
                with self._listening.accept()[0] as asking, socket.create_connection((host, port)) as answering:
                    answering.sendall(asking.recv(2**16))
                    said = b"".join(iter(lambda: answering.recv(2**16), b""))
                    with contextlib.suppress(OSError):
                        if self._change is not None:
                            asking.sendall(self._change(said))
                        for byte in said if self._change is None else b"":
                            asking.sendall(bytes([byte]))
                            time.sleep(0.2)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


CHANGES = {
    "a bit of the body": lambda data: flipped(data, data.index(b"\r\n\r\n") + 9),
    "a bit of the last tag": lambda data: flipped(data, len(data) - 1),
    "a bit of the first tag": lambda data: flipped(data, data.index(TAG.encode()) + len(TAG) + 5),
    "its status": lambda data: data.replace(b" 200 ", b" 404 ", 1),
    "its length": lambda data: data.replace(b"Content-Length: 1032", b"Content-Length: 1031", 1),
    "its end": lambda data: data[:-1],
    "all of its body": lambda data: data[: data.index(b"\r\n\r\n") + 4],
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_answer_is_none(what: str, server: PeerServer) -> None:
    server.offer("name", bytes(1000))
    between = Between(server, lambda data: data)
    assert fetch(between.address, "name", key=KEY, patience=0, seconds=10) == bytes(1000)
    between.close()
    between = Between(server, CHANGES[what])
    with pytest.raises(OSError):
        fetch(between.address, "name", key=KEY, patience=0, seconds=10)
    between.close()


def test_an_earlier_answer_is_none(server: PeerServer) -> None:
    """Somebody answers the second question as the first one was answered."""
    server.say("name", COMMITTED)
    first: list[bytes] = []

    def same(data: bytes) -> bytes:
        first.append(data)
        return first[0]

    between = Between(server, same)
    assert ask(between.address, "name", key=KEY, seconds=10) == COMMITTED
    server.say("name", FAILED)
    assert ask(between.address, "name", key=KEY, seconds=10) is None
    between.close()


def test_an_answer_that_comes_byte_by_byte_is_given_up(server: PeerServer) -> None:
    """Each byte comes within the timeout, the whole head does not."""
    between, started = Between(server, None), time.monotonic()
    assert ask(between.address, "name", key=KEY, seconds=1) is None
    assert time.monotonic() - started < 10
    between.close()


def test_a_request_that_comes_byte_by_byte_is_given_up(server: PeerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_SECONDS", 0.5)
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.settimeout(0.1)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                try:
                    connection.sendall(b"G")
                    if connection.recv(1) == b"":
                        return
                except ConnectionError:
                    return
    pytest.fail("the server still waits for the rest of the request")


def test_half_requests_keep_nobody_out(server: PeerServer) -> None:
    """Many connections of strangers, each of which says half a sentence: the oldest ones are closed."""
    server.publish("name", b"a part")
    host, port = server.address.split(":")
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        for _ in range(3 * http.STRANGERS):
            half = stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE))
            half.sendall(b"GET /round/na")
        assert fetch_part(server.address, "name", key=KEY, patience=PATIENCE) == b"a part"
        deadline = time.monotonic() + PATIENCE
        while threading.active_count() - before > http.STRANGERS + 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert threading.active_count() - before <= http.STRANGERS + 1
