"""Requests between workers over HTTP, see `muloco.outer.protocol.requests`."""

import contextlib
import http.client
import io
import logging
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from muloco.outer.protocol.authentication import TAG_BYTES, Key
from muloco.outer.protocol.requests import Answer, Request, is_authentic

REQUEST_SECONDS = 10.0
"""Seconds for a request to arrive."""
PIECE_SECONDS = 60.0
"""Seconds that a peer may take for a piece of an answer."""
STRANGERS = 128
"""Most open connections that have not yet been authenticated with the key."""
NONCE, TAG = "Muloco-Nonce", "Muloco-Tag"
"""Headers: the random bytes of a request; the tag of a request, or of all of an answer but its body. Hexadecimal."""

logger = logging.getLogger(__name__)


class Server(ThreadingHTTPServer):
    """Answers requests from holders of a key, of which any number may be connected. A request without a valid tag gets
    an empty answer with status 403. If more than `STRANGERS` connections have not been authenticated, the oldest of
    them is closed.

    Args:
        host: name or address of the interface to serve on.
        key: the key of the run.
        answer: returns the answer to a request for a path, or None if there is none. It is called in a thread.
    """

    daemon_threads = True
    request_queue_size = STRANGERS

    def __init__(self, host: str, key: Key, answer: Callable[[str], bytes | None]):
        super().__init__((host, 0), _Handler)
        self.address = f"{host}:{self.server_port}"
        """`host:port`"""
        self.key = key
        self.answer = answer
        self._unknown: OrderedDict[int, socket.socket] = OrderedDict()
        self._unknown_lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.05,), name="peer server", daemon=True).start()

    def close(self) -> None:
        """Ends the server."""
        self.shutdown()
        self.server_close()

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

    server: Server
    server_version, sys_version = "muloco", ""

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Arriving(self.connection, REQUEST_SECONDS))

    def do_GET(self) -> None:
        nonce, tag = (_from_hex(self.headers[name]) for name in (NONCE, TAG))
        key = self.server.key
        if not is_authentic(key, self.server.address, self.path, nonce, tag):
            self.send_error(403)
            return
        self.server.let_in(self.connection)
        answer = Answer(key, self.path, nonce, self.server.answer(self.path))
        self.send_response(answer.status)
        self.send_header("Content-Length", str(answer.length + TAG_BYTES))
        self.send_header(TAG, answer.tag.hex())
        self.connection.settimeout(PIECE_SECONDS)
        self.end_headers()
        for piece in answer.pieces():
            self.wfile.write(piece)

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


class _Response(http.client.HTTPResponse):
    """An HTTP response whose head has to arrive as a whole within the timeout of the connection."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any):
        super().__init__(sock, *args, **options)
        self.fp.close()
        self._arriving = _Arriving(sock, sock.gettimeout() or REQUEST_SECONDS)
        self.fp = io.BufferedReader(self._arriving)

    def read_body(self, count: int) -> bytes:
        """Returns up to so many bytes. For the body there is a deadline for each read alone."""
        self._arriving.lift()
        return self.read(count)


def get(address: str, path: str, seconds: float, *, key: Key) -> bytes | None:
    """Returns the body of a peer's answer, or None if the peer has none; see `muloco.outer.protocol.wire.Wire.request`.

    Raises:
        OSError: there is no answer, it is incomplete, or it was not made by a holder of the key for this request.
    """
    request = Request(key, address, path)
    try:
        with contextlib.closing(http.client.HTTPConnection(address, timeout=seconds)) as connection:
            connection.response_class = _Response
            connection.request("GET", path, headers={NONCE: request.nonce.hex(), TAG: request.tag.hex()})
            with connection.getresponse() as answer:
                assert isinstance(answer, _Response)
                length, tag = (answer.length or 0) - TAG_BYTES, _from_hex(answer.headers[TAG])
                return request.read(answer.status, length, tag, answer.read_body)
    except (http.client.HTTPException, ValueError) as error:  # ValueError: the address is invalid
        raise ConnectionError(f"the program that answers there is not a worker: {error!r}") from error


def _from_hex(text: str | None) -> bytes:
    try:
        return bytes.fromhex(text or "")
    except ValueError:
        return b""
