"""Requests between workers outside the rounds: the outcome of a round, the state of a worker that took part in it, and
parts of shared work.

A worker that loses contact in a vote cannot know whether the others have received all votes, so it asks them. A worker
that was away takes over the state of one that was not. Another program may answer at the address of a peer that is
gone; its answers are recognized and refused.
"""

import http.client
import io
import logging
import shutil
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections import OrderedDict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from muloco.outer.transport import KEPT_PARTS

VOTING, IN_DOUBT, COMMITTED, FAILED = "voting", "in doubt", "committed", "failed"
ANSWERS = (VOTING, IN_DOUBT, COMMITTED, FAILED)
KEPT = 64
"""Rounds that are remembered."""
REQUEST_SECONDS = 60.0
"""Seconds for a request to arrive."""
HELD_SECONDS = 1.0
"""Seconds for which the server holds a request for a part that has not been published yet."""
CHECKSUM = "Muloco-CRC32"
"""Name of the header of an answer that holds the CRC-32 of its body."""

logger = logging.getLogger(__name__)
_PLAIN = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Workers reach each other without the proxy that the environment may name for the outside."""


class PeerServer:
    """Answers the same rank of other workers.

    `GET /round/NAME` -> voting, in doubt (it has voted, lost contact and asks the others), committed or failed. Who
    asks may give the round up if nobody has committed it; so what this rank has not voted on yet has failed from then
    on. `GET /state/NAME` -> the state offered after that round, or 404 if there is none (yet). `GET /QUESTION/NAME` ->
    what `answers` has for it.

    Args:
        host: name or address of the interface to serve on.
    """

    def __init__(self, host: str):
        self._rounds: OrderedDict[str, str] = OrderedDict()
        self._offer: tuple[str, bytes] = ("", b"")
        self._parts: OrderedDict[str, bytes] = OrderedDict()
        self.answers: dict[str, Callable[[str], bytes | None]] = {}
        """By kind of request: what answers it, given the name that the request ends with; None: there is nothing."""
        self._lock = threading.Lock()
        self._published = threading.Condition(self._lock)
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_SECONDS

            def do_GET(self) -> None:
                self.connection.settimeout(None)  # a large state takes long
                body = answer(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.send_header(CHECKSUM, str(zlib.crc32(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = _Server((host, 0), Handler)
        self.address = f"{host}:{self._server.server_port}"
        """`host:port`"""
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="peer server", daemon=True).start()

    def begin_vote(self, round: str) -> bool:
        """From now on the answer is that this rank votes; False: it may not any more, a peer has asked already."""
        with self._lock:
            if round in self._rounds:
                return False
            self._set(round, VOTING)
            return True

    def say(self, round: str, state: str) -> None:
        """From now on this is the answer about a round."""
        with self._lock:
            self._set(round, state)

    def offer(self, round: str, state: bytes) -> None:
        """Keeps this state, and no earlier one, for those who missed something in a round."""
        with self._lock:
            self._offer = (round, state)

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

    def _answer(self, path: str) -> bytes | None:
        kind, _, name = path.removeprefix("/").partition("/")
        if kind in self.answers and name:
            return self.answers[kind](name)
        if kind not in ("round", "state", "part") or not name:
            return None  # such as the request of a port scanner
        with self._lock:
            if kind == "part":
                self._published.wait_for(lambda: name in self._parts, timeout=HELD_SECONDS)
                return self._parts.get(name)
            if kind == "state":
                return self._offer[1] if self._offer[0] == name else None
            if name not in self._rounds:
                self._set(name, FAILED)
            return self._rounds[name].encode()

    def _set(self, round: str, state: str) -> None:
        self._rounds[round] = state
        while len(self._rounds) > KEPT:
            self._rounds.popitem(last=False)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Logs one line: a traceback in the log of a worker would be taken for the reason of its end."""
        logger.info("a request from %s was not answered: %s", client_address, sys.exc_info()[1])


def ask(address: str, round: str, *, seconds: float) -> str | None:
    """What has become of a round at the peer `host:port`, whose server says more; None: it does not answer."""
    try:
        answer = _get(f"http://{address}/round/{round}", seconds).decode()
    except (OSError, ValueError):  # ValueError: the address or the text is invalid
        return None
    return answer if answer in ANSWERS else None


def inquire(address: str, question: str, *, seconds: float) -> bytes | None:
    """What the peer `host:port` answers to a question, a key of its `PeerServer.answers`; None: nothing.

    Raises:
        OSError: the peer is gone or silent, or its answer arrived damaged.
    """
    try:
        return _get(f"http://{address}/{question}/newest", seconds)
    except ValueError:  # the address is invalid
        return None


def fetch(address: str, round: str, *, patience: float, seconds: float) -> bytes:
    """Fetches the state that a peer offers after a round.

    Args:
        address: `host:port` of the peer's server.
        round: name of the round.
        patience: seconds that the peer may take until it offers the state.
        seconds: longest silence of the peer.

    Raises:
        OSError: the peer is gone or silent, offers nothing, or its answer arrived damaged.
    """
    return _get_patiently(f"http://{address}/state/{round}", patience, seconds)


def fetch_part(address: str, name: str, *, patience: float) -> bytes:
    """Fetches the part that a peer publishes under a name.

    Args:
        address: `host:port` of the peer's server.
        name: name of the part.
        patience: seconds that the peer may take to publish it. A silent peer is given up after `2 HELD_SECONDS` at the
            earliest.

    Raises:
        OSError: the peer is gone or silent, publishes nothing by that name, or its answer arrived damaged.
    """
    return _get_patiently(f"http://{address}/part/{name}", patience, max(2 * HELD_SECONDS, patience))


def _get_patiently(url: str, patience: float, seconds: float) -> bytes:
    """Returns the answer of a peer. Repeats the request for up to `patience` seconds while the peer has nothing yet."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return _get(url, seconds)
        except urllib.error.HTTPError as error:
            if error.code != 404 or time.monotonic() > deadline:
                raise
        except ValueError as error:
            raise OSError(f"the program that answers there is not a worker: {error!r}") from error
        time.sleep(0.1)


def _get(url: str, seconds: float) -> bytes:
    """Returns the body of an answer. It takes only as much memory as arrives, whatever length the answer announces.

    Raises:
        OSError: there is no answer, or it is incomplete or damaged.
    """
    body = io.BytesIO()
    try:
        with _PLAIN.open(url, timeout=seconds) as response:
            shutil.copyfileobj(response, body, 2**20)
    except http.client.HTTPException as error:
        raise ConnectionError(f"the answer was cut off: {error!r}") from error
    data = body.getvalue()
    if response.headers[CHECKSUM] != str(zlib.crc32(data)):
        raise OSError(f"the answer of {len(data)} bytes is incomplete, damaged, or not from a worker")
    return data
