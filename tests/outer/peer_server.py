"""A worker's server of answers without the worker, and what others ask it, over HTTP."""

from functools import partial

from muloco.outer.protocol import answers
from muloco.outer.protocol.answers import HELD_SECONDS, Answers
from muloco.outer.protocol.authentication import Key
from muloco.outer.system_clock import SystemClock
from muloco.outer.wire.http import Server, get


class PeerServer(Answers):
    """Answers holders of a key."""

    def __init__(self, host: str, key: Key):
        super().__init__(SystemClock())
        self.server = Server(host, key, self.answer)
        self.address = self.server.address

    def close(self) -> None:
        self.server.close()


def ask(address: str, name: str, *, key: Key, seconds: float) -> str | None:
    return answers.ask(partial(get, key=key), address, name, seconds=seconds)


def inquire(address: str, question: str, *, key: Key, seconds: float) -> bytes | None:
    return get(address, f"/{question}/newest", seconds, key=key)


def fetch(address: str, name: str, *, key: Key, patience: float, seconds: float) -> bytes:
    return _fetch(address, f"/state/{name}", key, patience, seconds)


def fetch_part(address: str, name: str, *, key: Key, patience: float) -> bytes:
    return _fetch(address, f"/part/{name}", key, patience, max(2 * HELD_SECONDS, patience))


def _fetch(address: str, path: str, key: Key, patience: float, seconds: float) -> bytes:
    request = partial(get, key=key)
    return answers.fetch(request, SystemClock(), address, path, patience=patience, seconds=seconds)
