"""Requests between workers outside the rounds: the outcome of a round, the state of a worker that took part in it, and
parts of shared work.

A worker that loses contact in a vote cannot know whether the others have received all votes, so it asks them. A worker
that was away takes over the state of one that was not.

A request carries random bytes, and a tag with the key of the run over these bytes and the content of the request. The
tags of the answer cover the same random bytes. Therefore a process without the key gets no answer and changes nothing,
and forged answers and copies of earlier answers are recognized and refused. A copy of a request is answered, which does
no harm: a request that is repeated changes nothing, and whoever could copy the request has already been able to read
the answer. Nothing is encrypted.
"""

import contextlib
import hmac
import http.client
import io
import logging
import secrets
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from muloco.outer.protocol.authentication import NONCE_BYTES, TAG_BYTES, Key
from muloco.outer.protocol.transport import KEPT_PARTS

VOTING, IN_DOUBT, COMMITTED, FAILED = "voting", "in doubt", "committed", "failed"
ANSWERS = (VOTING, IN_DOUBT, COMMITTED, FAILED)
KEPT = 64
"""Rounds that are remembered: this many in which this rank took part, and this many that others have asked about."""
REQUEST_SECONDS = 10.0
"""Seconds for a request to arrive."""
PIECE_SECONDS = 60.0
"""Seconds that a peer may take for a piece of an answer."""
HELD_SECONDS = 1.0
"""Seconds for which the server holds a request for a part that has not been published yet."""
STRANGERS = 128
"""Most open connections that have not yet been authenticated with the key."""
NONCE, TAG = "Muloco-Nonce", "Muloco-Tag"
"""Headers: the random bytes of a request; the tag of a request, or of all of an answer but its body. Hexadecimal."""
PIECE = 2**20
"""Bytes of a body that are sent or read at once."""

logger = logging.getLogger(__name__)


class PeerServer:
    """Answers the same rank of other workers.

    `GET /round/NAME` -> voting, in doubt (it has voted, lost contact and asks the others), committed or failed. The
    worker that asks may give the round up if nobody has committed it; therefore a round on which this rank has not
    voted yet counts as failed from then on. `GET /state/NAME` -> the state offered after that round, or 404 if there is
    none (yet). `GET /part/NAME` -> the part published under that name, or 404. `GET /QUESTION/NAME` -> the result of
    `answers[QUESTION](NAME)`. A request without a valid tag gets an empty answer with status 403.

    Args:
        host: name or address of the interface to serve on.
        key: the key of the run.
    """

    def __init__(self, host: str, key: Key):
        self._rounds: OrderedDict[str, str] = OrderedDict()
        self._given_up: OrderedDict[str, str] = OrderedDict()
        self._offer: tuple[str, bytes] = ("", b"")
        self._parts: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._published = threading.Condition(self._lock)
        self.answers: dict[str, Callable[[str], bytes | None]] = {
            "round": self._round,
            "state": self._state,
            "part": self._part,
        }
        """Functions that answer requests, by kind. Each gets the name at the end of the path; None means 404."""
        self._server = _Server(host, key, self.answers)
        self.address = self._server.address
        """`host:port`"""
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="peer server", daemon=True).start()

    def begin_vote(self, name: str) -> bool:
        """From now on the answer is that this rank votes. Returns False if it may not vote any more, as a peer has
        already asked."""
        with self._lock:
            if name in self._rounds or name in self._given_up:
                return False
            _remember(self._rounds, name, VOTING)
            return True

    def say(self, name: str, state: str) -> None:
        """Sets the answer about a round."""
        with self._lock:
            _remember(self._rounds, name, state)

    def offer(self, name: str, state: bytes) -> None:
        """Keeps this state, and no earlier one, for workers that missed something in a round."""
        with self._lock:
            self._offer = (name, state)

    def publish(self, name: str, part: bytes) -> None:
        """Offers a part to other workers until `KEPT_PARTS` newer ones have been published."""
        with self._published:
            self._parts[name] = part
            while len(self._parts) > KEPT_PARTS:
                self._parts.popitem(last=False)
            self._published.notify_all()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _round(self, name: str) -> bytes:
        with self._lock:
            if name not in self._rounds:
                _remember(self._given_up, name, FAILED)
            return self._rounds.get(name, FAILED).encode()

    def _state(self, name: str) -> bytes | None:
        with self._lock:
            return self._offer[1] if self._offer[0] == name else None

    def _part(self, name: str) -> bytes | None:
        with self._published:
            self._published.wait_for(lambda: name in self._parts, timeout=HELD_SECONDS)
            return self._parts.get(name)


def _remember(rounds: OrderedDict[str, str], name: str, state: str) -> None:
    rounds[name] = state
    while len(rounds) > KEPT:
        rounds.popitem(last=False)


class _Server(ThreadingHTTPServer):
    """Answers requests from holders of a key, of which any number may be connected. If more than `STRANGERS`
    connections have not been authenticated, the oldest of them is closed."""

    daemon_threads = True
    request_queue_size = STRANGERS

    def __init__(self, host: str, key: Key, answers: dict[str, Callable[[str], bytes | None]]):
        super().__init__((host, 0), _Handler)
        self.address = f"{host}:{self.server_port}"
        self.key = key
        self._answers = answers
        self._unknown: OrderedDict[int, socket.socket] = OrderedDict()
        self._unknown_lock = threading.Lock()

    def answer(self, path: str) -> bytes | None:
        kind, _, name = path.removeprefix("/").partition("/")
        return self._answers[kind](name) if kind in self._answers and name else None

    def process_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        with self._unknown_lock:
            self._unknown[id(request)] = request
            oldest = self._unknown.popitem(last=False)[1] if len(self._unknown) > STRANGERS else None
        if oldest is not None:
            with contextlib.suppress(OSError):  # the connection may be closed already
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def let_in(self, request: object) -> None:
        """Stops counting a connection as unauthenticated: it has sent a valid tag, or it is closed."""
        with self._unknown_lock:
            self._unknown.pop(id(request), None)

    def shutdown_request(self, request: object) -> None:
        self.let_in(request)
        super().shutdown_request(request)  # type: ignore[arg-type]

    def handle_error(self, request: object, client_address: object) -> None:
        """Logs one line: a traceback in the log of a worker would be taken for the reason of its end."""
        logger.info("a request from %s was not answered: %s", client_address, sys.exc_info()[1])


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: _Server
    server_version, sys_version = "muloco", ""

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Arriving(self.connection, REQUEST_SECONDS))

    def do_GET(self) -> None:
        nonce, tag = (_from_hex(self.headers[name]) for name in (NONCE, TAG))
        key = self.server.key
        if len(nonce) != NONCE_BYTES or not key.holds(tag, "request", "GET", self.path, self.server.address, nonce):
            self.send_error(403)
            return
        self.server.let_in(self.connection)
        body = self.server.answer(self.path)
        status, whole = (404, memoryview(b"")) if body is None else (200, memoryview(body))
        self.send_response(status)
        self.send_header("Content-Length", str(len(whole) + TAG_BYTES))
        self.send_header(TAG, key.tag("answer", nonce, self.path, status, len(whole)).hex())
        self.connection.settimeout(PIECE_SECONDS)
        self.end_headers()
        end = key.begin("body", nonce)
        for start in range(0, len(whole), PIECE):
            piece = whole[start : start + PIECE]
            end.update(piece)
            self.wfile.write(piece)
        self.wfile.write(end.digest())

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Sends the same answer, whatever is wrong with a request."""
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


class _Arriving(io.RawIOBase):
    """A stream of the bytes that arrive on a connection before a deadline.

    Args:
        connection: the connection. Its own timeout is set before each read.
        seconds: time until the deadline.
    """

    def __init__(self, connection: socket.socket, seconds: float):
        self._connection = connection
        self._stream = connection.makefile("rb", buffering=0)
        self._seconds = seconds
        self._deadline: float | None = time.monotonic() + seconds

    def lift(self) -> None:
        """Removes the deadline; from now on each single read may take that long."""
        self._deadline = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._seconds if self._deadline is None else self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the message did not arrive in time")
        self._connection.settimeout(left)
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An HTTP response whose head has to arrive as a whole within the timeout of the connection."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any):
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.arriving = _Arriving(sock, sock.gettimeout() or REQUEST_SECONDS)
        self.fp = io.BufferedReader(self.arriving)


def _from_hex(text: str | None) -> bytes:
    try:
        return bytes.fromhex(text or "")
    except ValueError:
        return b""


def ask(address: str, name: str, *, key: Key, seconds: float) -> str | None:
    """Asks the peer `host:port` for the outcome of a round; None: it does not answer."""
    try:
        answer = _get(address, f"/round/{name}", key, seconds)
    except (OSError, ValueError):  # ValueError: the address is invalid
        return None
    text = b"" if answer is None else answer
    return text.decode() if text.decode("ascii", "replace") in ANSWERS else None


def inquire(address: str, question: str, *, key: Key, seconds: float) -> bytes | None:
    """Returns the answer of the peer `host:port` to a question (a key of its `PeerServer.answers`), or None.

    Raises:
        OSError: the peer is gone or silent, or its answer does not have the tag of the run's key.
    """
    try:
        return _get(address, f"/{question}/newest", key, seconds)
    except ValueError:  # the address is invalid
        return None


def fetch(address: str, name: str, *, key: Key, patience: float, seconds: float) -> bytes:
    """Fetches the state that a peer offers after a round.

    Args:
        address: `host:port` of the peer's server.
        name: name of the round.
        key: of the run.
        patience: seconds that the peer may take until it offers the state.
        seconds: longest silence of the peer.

    Raises:
        OSError: the peer is gone or silent, offers nothing, or its answer was not made by a holder of the key.
    """
    return _get_patiently(address, f"/state/{name}", key, patience, seconds)


def fetch_part(address: str, name: str, *, key: Key, patience: float) -> bytes:
    """Fetches the part that a peer publishes under a name.

    Args:
        address: `host:port` of the peer's server.
        name: name of the part.
        key: of the run.
        patience: seconds that the peer may take to publish it. A silent peer is given up after `2 HELD_SECONDS` at the
            earliest.

    Raises:
        OSError: the peer is gone or silent, publishes nothing by that name, or its answer was not made by a holder of
            the key.
    """
    return _get_patiently(address, f"/part/{name}", key, patience, max(2 * HELD_SECONDS, patience))


def _get_patiently(address: str, path: str, key: Key, patience: float, seconds: float) -> bytes:
    """Returns the answer of a peer. Repeats the request for up to `patience` seconds while the peer has nothing yet."""
    deadline = time.monotonic() + patience
    while True:
        try:
            answer = _get(address, path, key, seconds)
        except ValueError as error:
            raise OSError(f"the program that answers there is not a worker: {error!r}") from error
        if answer is not None:
            return answer
        if time.monotonic() > deadline:
            raise FileNotFoundError(f"the worker at {address} has nothing at {path}")
        time.sleep(0.1)


def _get(address: str, path: str, key: Key, seconds: float) -> bytes | None:
    """Returns the body of a peer's answer, or None if the peer has none. Memory is allocated only for a length that is
    authenticated.

    Raises:
        OSError: there is no answer, it is incomplete, or it was not made by a holder of the key for this request.
        ValueError: the address is invalid.
    """
    nonce = secrets.token_bytes(NONCE_BYTES)
    tag = key.tag("request", "GET", path, address, nonce)
    body = io.BytesIO()
    try:
        with contextlib.closing(http.client.HTTPConnection(address, timeout=seconds)) as connection:
            connection.response_class = _Answer
            connection.request("GET", path, headers={NONCE: nonce.hex(), TAG: tag.hex()})
            with connection.getresponse() as answer:
                assert isinstance(answer, _Answer)
                status, length = answer.status, (answer.length or 0) - TAG_BYTES
                if not key.holds(_from_hex(answer.headers[TAG]), "answer", nonce, path, status, length):
                    raise OSError(f"what answers at {address} does not have the secret of this run")
                answer.arriving.lift()
                end = key.begin("body", nonce)
                while body.tell() < length and (piece := answer.read(min(PIECE, length - body.tell()))):
                    end.update(piece)
                    body.write(piece)
                if not hmac.compare_digest(answer.read(TAG_BYTES), end.digest()):
                    raise OSError(f"the answer of {length} bytes is incomplete or damaged")
    except http.client.HTTPException as error:
        raise ConnectionError(f"the program that answers there is not a worker: {error!r}") from error
    return body.getvalue() if status == 200 else None
