"""Workers as threads that meet at a real lighthouse."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from muloco.outer.protocol.authentication import Key
from muloco.outer.wire.peer_group import GlooGroup, PeerGroup
from muloco.outer.wire.torchft import TorchftTransport

T = TypeVar("T")
SECRET = b"a secret of the workers of a test"
KEY = Key(SECRET)


def connect(
    worker: int,
    lighthouse: str,
    *,
    run: str = "run",
    secret: bytes = SECRET,
    least: int = 1,
    quorum_seconds: float = 30,
    exchange_seconds: float = 20,
    group: Callable[[timedelta], PeerGroup] = GlooGroup,
    rank: int = 0,
    ranks: int = 1,
    ranks_group: dist.ProcessGroup | None = None,
) -> TorchftTransport:
    """One rank's end; of a worker of one rank, where nothing else is said."""
    return TorchftTransport(
        run=run,
        secret=secret,
        worker=worker,
        min_replica_size=least,
        lighthouse=lighthouse,
        rank=rank,
        ranks=ranks,
        ranks_group=ranks_group,
        host="127.0.0.1",
        group=group(timedelta(seconds=exchange_seconds)),
        quorum_timeout=timedelta(seconds=quorum_seconds),
        exchange_timeout=timedelta(seconds=exchange_seconds),
    )


def in_threads(workers: int, work: Callable[[int], T]) -> list[T]:
    """`work(worker)` in a thread each; the results in the workers' order."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, range(workers)))
