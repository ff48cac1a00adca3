"""torch's key-value store, on loopback alone."""

import socket

from torch.distributed import TCPStore

from muloco.outer.wire.gate import LOOPBACK


def loopback_store() -> TCPStore:
    """Opens a store on a free port of loopback. By default torch's store listens on all interfaces, where everybody who
    can reach it can read, write and delete its keys."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        port = listening.getsockname()[1]
        return TCPStore(
            LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach(), use_libuv=True
        )
