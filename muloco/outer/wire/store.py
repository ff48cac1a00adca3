"""torch's key-value stores, on loopback alone."""

import socket
from collections.abc import Sequence
from datetime import timedelta

from torch.distributed import Store, TCPStore

from muloco.outer.wire.gate import LOOPBACK


def loopback_store() -> TCPStore:
    """Opens a store on a free port of loopback. By default torch's store listens on all interfaces, where everybody who
    can reach it can read, write and delete its keys."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        port = listening.getsockname()[1]
        return TCPStore(
            LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach(), use_libuv=True
        )


class StoreRendezvous:
    """See `muloco.outer.protocol.wire.Rendezvous`: entries of one of torch's stores."""

    def __init__(self, store: Store):
        self._store = store

    def set(self, key: str, value: str) -> None:
        self._store.set(key, value)

    def collect(self, keys: Sequence[str], seconds: float) -> list[bytes]:
        keys = list(keys)
        try:
            self._store.wait(keys, timedelta(seconds=seconds))
            return self._store.multi_get(keys)
        except RuntimeError:
            return [self._store.get(key) if self._store.check([key]) else b"" for key in keys]
