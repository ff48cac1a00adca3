"""The wire of workers that are processes: torchft's manager and lighthouse bring them together, torchft's process group
carries the bytes of rounds, and HTTP everything else.

torchft decides membership alone. Its `should_commit` is a barrier of the ranks of one worker and lets workers differ,
so muloco takes the vote itself, and torchft's answer afterwards says whether the connections have held. torchft's
DiLoCo is not used (`tests/outer` compares it with muloco's).
"""

import logging
import os
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torchft.checkpointing import CheckpointTransport

from muloco.outer.protocol.authentication import Key
from muloco.outer.protocol.group import Group
from muloco.outer.protocol.peer_transport import PeerTransport
from muloco.outer.protocol.transport import TransportError
from muloco.outer.system_clock import SystemClock
from muloco.outer.wire.http import Server, get
from muloco.outer.wire.manager import LoopbackManager
from muloco.outer.wire.network import Network, split
from muloco.outer.wire.peer_group import PeerGroup, in_short

logger = logging.getLogger(__name__)

PROBE_SECONDS = 3.0
"""Time limit of a connection that only tests whether a worker can be reached."""


def torchft_transport(
    *,
    run: str,
    secret: bytes,
    worker: int,
    min_replica_size: int,
    lighthouse: str,
    rank: int,
    ranks: int,
    host: str,
    group: PeerGroup,
    device: torch.device | str = "cpu",
    quorum_timeout: timedelta,
    exchange_timeout: timedelta,
    ranks_group: dist.ProcessGroup | None = None,
) -> PeerTransport:
    """Returns one rank's end of a run that meets at a torchft lighthouse.

    Args:
        run: name of the run; part of the worker's identity at the lighthouse.
        secret: the secret of the run, at least 16 bytes. Members of a quorum that do not have it are left out, and all
            their messages are ignored.
        worker: id of this worker, from 0.
        min_replica_size: fewest workers that make a round.
        lighthouse: address of the lighthouse, `http://host:port`.
        rank: which of the worker's ranks this is, of `ranks`.
        host: name or address under which other workers reach this rank.
        group: carries the bytes: `GlooGroup`, `NCCLGroup` or another `PeerGroup`, used by nothing else.
        device: the device of the parameters, which makes and reads payloads.
        quorum_timeout: how long to wait for the other workers at a sync.
        exchange_timeout: how long a chunk of an exchange may take.
        ranks_group: gloo group of the worker's ranks, used by nothing else; None for a single rank.
    """
    if ranks > 1 and ranks_group is None:
        raise ValueError(f"a worker of {ranks} ranks needs a group in which they agree (ranks_group)")
    network = Network(host, secret, on_loss=_end_without_network)
    group.network = network
    manager = LoopbackManager(
        network=network,
        lighthouse=lighthouse,
        name=f"{run}_{worker:03d}",  # zero-padded: torchft orders workers by it
        rank=rank,
        ranks=ranks,
        ranks_group=ranks_group,
        pg=group,
        load_state_dict=None,
        state_dict=None,
        min_replica_size=min_replica_size,
        use_async_quorum=False,
        timeout=exchange_timeout,
        quorum_timeout=quorum_timeout,
        quorum_retries=int(quorum_timeout.total_seconds()),  # one a second, while the lighthouse is away
        checkpoint_transport=_NoHealing(),
        init_sync=False,  # torchft's default throws away the first window of every worker but one
    )
    key = Key(secret)
    return PeerTransport(
        SystemClock(),
        TorchftWire(key, manager, group, network, ranks_group, exchange_timeout),
        key,
        worker=worker,
        min_replica_size=min_replica_size,
        device=torch.device(device),
        quorum_seconds=quorum_timeout.total_seconds(),
        exchange_seconds=exchange_timeout.total_seconds(),
    )


class TorchftWire:
    """See `muloco.outer.protocol.wire.Wire`.

    Args:
        key: of the run.
        manager: torchft's manager of this worker.
        group: its process group.
        network: makes this rank reachable for others.
        ranks_group: gloo group of the worker's ranks; None for a single rank.
        timeout: how long the store of a quorum may take for an answer.
    """

    def __init__(
        self,
        key: Key,
        manager: LoopbackManager,
        group: PeerGroup,
        network: Network,
        ranks_group: dist.ProcessGroup | None,
        timeout: timedelta,
    ):
        self.device = group.device
        self.group = group
        self.network = network
        self._key = key
        self._manager = manager
        self._ranks_group = ranks_group
        self._timeout = timeout
        self._server: Server | None = None

    @property
    def connected(self) -> bool:
        return self.group.connected

    def meet(self, group: Group) -> str | None:
        self.group.chooser = group
        # For torchft all workers are always at the same step, so that it heals none of them.
        self._manager.load_state_dict({"step": 0, "batches_committed": 0})
        self._manager.start_quorum(allow_heal=False)
        return self._failure()

    def swap(
        self, received: torch.Tensor, sizes: list[int], sent: list[torch.Tensor], meanwhile: Callable[[], None]
    ) -> None:
        try:
            self.group.swap(received, sizes, sent, meanwhile)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # this worker's own device has failed
        except RuntimeError as error:
            raise ConnectionError(in_short(error)) from error

    def finish(self, failure: str | None) -> str | None:
        if failure is not None:
            self._manager.report_error(RuntimeError(failure))
        if self._manager.should_commit():
            return None
        return self._failure() or "on another rank of this worker"

    def abort(self) -> None:
        self.group.abort()

    def forget_rendezvous(self) -> None:
        self.group.forget_rendezvous(self._timeout)

    def serve(self, answer: Callable[[str], bytes | None]) -> str:
        self._server = Server(self.network.host, self._key, answer)
        return self._server.address

    def request(self, address: str, path: str, seconds: float) -> bytes | None:
        return get(address, path, seconds, key=self._key)

    def reaches(self, address: str) -> bool:
        return reaches(address)

    def of_ranks(self, numbers: Sequence[int]) -> list[list[int]]:
        if self._ranks_group is None:
            return [list(numbers)]
        own = torch.tensor(numbers, dtype=torch.int64)
        given = [torch.empty_like(own) for _ in range(self._ranks_group.size())]
        dist.all_gather(given, own, group=self._ranks_group)
        return [part.tolist() for part in given]

    def close(self) -> None:
        self._manager.shutdown(wait=False)
        self.group.abort()
        if self._server is not None:
            self._server.close()
        self.network.close()

    def _failure(self) -> str | None:
        """Returns what has failed since the last quorum, as far as torchft knows."""
        failure = self._manager.errored()
        return None if failure is None else in_short(failure.original_exception)


def reaches(address: str) -> bool:
    """Whether the machine at `host:port` answers. A refused connection also counts: only the worker has gone then."""
    try:
        socket.create_connection(split(address), timeout=PROBE_SECONDS).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


def _end_without_network() -> None:
    """Ends this process, which others can no longer reach. The supervisor can start it again."""
    logger.critical("the process that carries the connections of this worker has ended, so this worker ends, too")
    os._exit(1)


class _NoHealing(CheckpointTransport[dict[str, object]]):
    """torchft heals no worker: every round asks it for none. Its default would serve the weights to any process that
    asks, on all interfaces."""

    def metadata(self) -> str:
        return ""

    def send_checkpoint(self, dst_ranks, step, state_dict, timeout) -> None:
        raise TransportError("torchft asked to send a checkpoint, though no round allows healing")

    def recv_checkpoint(self, src_rank, metadata, step, timeout) -> dict[str, object]:
        raise TransportError("torchft asked to receive a checkpoint, though no round allows healing")

    def disallow_checkpoint(self) -> None:
        pass
