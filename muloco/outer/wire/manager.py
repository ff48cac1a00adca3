"""torchft's manager of a worker, with its server on loopback."""

import uuid
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torchft.coordination import ManagerServer
from torchft.manager import MANAGER_ADDR_KEY, REPLICA_ID_KEY, Manager

from muloco.outer.wire.gate import LOOPBACK
from muloco.outer.wire.network import Network, split
from muloco.outer.wire.store import loopback_store

HEARTBEAT = timedelta(milliseconds=100)
"""Interval, torchft's own."""
_LONGEST = 4096


class LoopbackManager(Manager):
    """A manager whose server is started here, on loopback, where torchft would bind it to all interfaces.

    torchft starts the server in the manager of rank 0 and tells its address to the other ranks by the worker's store.
    Here each rank has a small store of its own on loopback, with the address in it, and calls itself one rank higher,
    so that its manager takes itself for one of the others. To the server ranks are names: it waits for as many as there
    are. The members of a group meet in the store of a rank 0.

    Args:
        network: how this rank reaches others, and they reach it.
        lighthouse: its address, `http://host:port`.
        name: the name under which the lighthouse knows the worker.
        rank: which of the worker's `ranks` ranks this is.
        ranks_group: gloo group of the worker's ranks; None for a single one.
        connect_timeout: for the connections to the server and from it to the lighthouse.
        quorum_retries: how often the server asks the lighthouse again.
        options: further options of torchft's manager.
    """

    def __init__(
        self,
        *,
        network: Network,
        lighthouse: str,
        name: str,
        rank: int,
        ranks: int,
        ranks_group: dist.ProcessGroup | None,
        connect_timeout: timedelta = timedelta(seconds=60),
        quorum_retries: int,
        **options: Any,
    ):
        self._own_store = loopback_store()
        self._server: ManagerServer | None = None
        told = ""
        if rank == 0:
            replica = f"{name}:{uuid.uuid4()}"  # torchft can thus tell a restarted worker from the previous one
            self._server = ManagerServer(
                replica_id=replica,
                lighthouse_addr=f"http://{network.reach(lighthouse.removeprefix('http://').rstrip('/'))}",
                hostname=LOOPBACK,
                bind=f"{LOOPBACK}:0",
                store_addr=network.announce(self._own_store.port),
                world_size=ranks,
                heartbeat_interval=HEARTBEAT,
                connect_timeout=connect_timeout,
                quorum_retries=quorum_retries,
            )
            _, port = split(self._server.address())
            told = f"{network.announce(port) if ranks > 1 else f'{LOOPBACK}:{port}'} {replica}"
        address, replica = _from_first(told, ranks_group).split(" ", 1)
        self._own_store.set(MANAGER_ADDR_KEY, f"http://{network.reach(address)}")
        self._own_store.set(REPLICA_ID_KEY, replica)
        super().__init__(
            rank=1 + rank,
            world_size=ranks,
            store_addr=LOOPBACK,
            store_port=self._own_store.port,
            replica_id=name,
            connect_timeout=connect_timeout,
            **options,
        )

    def shutdown(self, wait: bool = True) -> None:
        super().shutdown(wait)
        if self._server is not None:
            self._server.shutdown()


def _from_first(text: str, ranks_group: dist.ProcessGroup | None) -> str:
    """Returns the text that the first rank has passed."""
    if ranks_group is None:
        return text
    told = torch.zeros(_LONGEST, dtype=torch.uint8)
    own = torch.frombuffer(bytearray(text.encode().ljust(_LONGEST)), dtype=torch.uint8)
    if ranks_group.rank() == 0:
        told.copy_(own)
    dist.broadcast(told, group=ranks_group, group_src=0)
    return told.numpy().tobytes().decode().rstrip()
