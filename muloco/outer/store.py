"""torch's key-value store, on loopback alone."""

import socket

from torch.distributed import TCPStore

LOOPBACK = "127.0.0.1"


def loopback_store() -> TCPStore:
    """Opens a store on a free port of loopback. torch's own would listen on all interfaces, and its keys can be read,
    written and deleted by whoever reaches it."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        port = listening.getsockname()[1]
        return TCPStore(
            LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach(), use_libuv=True
        )
