"""Process groups that carry the bytes of a round between workers: torchft's, which a round can rely on."""

import logging
import os
import re
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import AllToAllOptions
from torchft.process_group import ProcessGroupGloo, ProcessGroupNCCL, ProcessGroupWrapper

from muloco.outer.protocol.group import Group
from muloco.outer.protocol.wire import CUT_OFF, Quorum
from muloco.outer.wire.gate import LOOPBACK
from muloco.outer.wire.network import Network, split
from muloco.outer.wire.store import StoreRendezvous

logger = logging.getLogger(__name__)

_ON_ERROR = "TORCH_NCCL_ASYNC_ERROR_HANDLING"


def in_short(error: Exception) -> str:
    """The message of gloo, NCCL or torchft without the place in its source, its advice and its stack."""
    text = str(error).split("\n")[0]
    return re.sub(r"^\[\S+:\d+\] ", "", text).split(". ")[0]


class PeerGroup(ProcessGroupWrapper):
    """Extends a process group of torchft for rounds: a base class to put before torchft's. It connects the members that
    the protocol chooses, and swaps bytes between them."""

    device = torch.device("cpu")
    """Device of the bytes that the group sends and receives."""
    _whole = False
    """Whether the group has all members of the quorum."""
    _name = ""
    """Prefix of the keys under which the members of this group find each other, within those of the quorum."""
    chooser: Group
    """Chooses the members, to be set before the first configuration."""
    rendezvous = ""
    """Address at which this member reaches the store in which the members find each other, with the prefix of their
    keys."""
    network = Network(LOOPBACK, b"")
    """The network by which that store is reached."""
    _store = ""
    """Address of that store as announced by the worker that serves it."""
    _global_ranks: list[int] | None

    def configure(self, store_addr, replica_id, rank, world_size, quorum_id=None, *args, **kwargs) -> None:
        self._quorum = Quorum(
            rank=rank, workers=_workers(world_size, *args), host=split(store_addr.partition("/")[0])[0]
        )
        if self.chooser.stays_out(self._quorum):
            self.abort(errored=False)  # torchft is not told of a failure: the others would have to connect again
            return
        self.rendezvous = self._reach_store(store_addr)
        super().configure(self.rendezvous, replica_id, rank, world_size, quorum_id, *args, **kwargs)

    def _create_pg(self, store: dist.Store, rank: int, world_size: int) -> dist.ProcessGroup:
        self._name, members = self.chooser.join(self._quorum, StoreRendezvous(store))
        self._whole = len(members) == world_size
        if self._global_ranks is not None:
            self._global_ranks = [self._global_ranks[member] for member in members]
        return super()._create_pg(dist.PrefixStore(self._name, store), members.index(rank), len(members))

    @property
    def connected(self) -> bool:
        """Whether it has not been aborted since it was configured."""
        return self._pg is not None

    @property
    def parent(self) -> dist.ProcessGroup:
        """torch's process group. Another thread may abort it at any time.

        Raises:
            RuntimeError: the group has been aborted.
        """
        connected = self._pg
        if connected is None:
            raise RuntimeError(CUT_OFF)
        return connected

    def swap(
        self,
        received: torch.Tensor,
        sizes: list[int],
        sent: list[torch.Tensor],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Sends `sent[r]` to member r, and fills `received` with the bytes from all members, `sizes[r]` from member r
        in rank order. Calls `meanwhile` once they are on the way. Returns when they have arrived.

        It is not enough to wait for NCCL's work object: this makes the current stream wait, not the host, and never
        fails. When a member is lost, torchft aborts the communicator after the timeout, the stream goes on, and
        `received` holds arbitrary bytes. `errored` waits for the current stream and says whether this has happened.

        Raises:
            RuntimeError: a member is gone or too slow.
        """
        self.post(received, sizes, sent, meanwhile)
        if (failure := self.errored()) is not None:
            raise RuntimeError(str(failure)) from failure

    def post(
        self, received: torch.Tensor, sizes: list[int], sent: list[torch.Tensor], meanwhile: Callable[[], None]
    ) -> None:
        """Starts a swap and waits for its work objects, see `swap`. Each kind of group has its own."""
        raise NotImplementedError

    def _reach_store(self, announced: str) -> str:
        """Returns the address at which this process reaches the announced store, with the prefix of its keys.

        Raises:
            ConnectionError: the worker that holds the store has gone. torch would try to connect until its timeouts,
                and the other workers would wait for this one.
        """
        before, (self._store, slash, prefix) = self._store, announced.partition("/")
        try:
            if self._store != before:
                self.network.leave(before)
            self.network.check(self._store)
            return self.network.reach(self._store) + slash + prefix
        except OSError as error:
            self.abort()
            raise ConnectionError(f"the worker at {self._store} has gone: {error}") from error

    def forget_rendezvous(self, timeout: timedelta) -> None:
        """Deletes the entries in the store by which the members of this group found each other. A restarted lighthouse
        counts quorums from 1 again, and the members of the next quorum of this number must not find these entries.

        Members of the quorum that are not in this group may still be reading what all of them have written. If there
        are any, those entries stay; a later quorum that finds them fails once and gets another number. If the store
        does not answer, its worker is gone, and so are the entries."""
        address, _, prefix = self.rendezvous.partition("/")
        host, port = split(address)
        own = f"{prefix}/" if self._whole else f"{prefix}/{self._name}/"
        try:
            store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
            for key in store.list_keys():
                if key.removeprefix("/").startswith(own):
                    store.delete_key(key)
        except RuntimeError as error:
            logger.info("the store at %s:%d does not answer: %s", host, port, in_short(error))


def _workers(
    size: int, group_rank: int = 0, group_world_size: int = 1, global_ranks: Sequence[int] | None = None
) -> list[int]:
    """Returns the numbers of the workers that are members of a quorum, from the arguments that torchft passes to a
    group."""
    numbers = range(size) if global_ranks is None else global_ranks
    return [(number - group_rank) // group_world_size for number in numbers]


class GlooGroup(PeerGroup, ProcessGroupGloo):
    """Sends over TCP, from and to host memory."""

    def post(
        self, received: torch.Tensor, sizes: list[int], sent: list[torch.Tensor], meanwhile: Callable[[], None]
    ) -> None:
        """Posts all receives before the sends. gloo's own all-to-all sends first, so that its request for the other
        side's part waits until its own part is sent, and only one direction of a link is busy at a time."""
        works = [self.recv([part], r, 0) for r, part in enumerate(received.split(sizes)) if part.numel()]
        works += [self.send([part], r, 0) for r, part in enumerate(sent) if part.numel()]
        try:
            meanwhile()
            for work in works:
                work.wait()
        finally:
            works.clear()  # they would keep the connections open after an abort


class StreamGroup(PeerGroup):
    """Swaps in one collective call that is queued on a stream, and may still be running when `post` returns."""

    def post(
        self, received: torch.Tensor, sizes: list[int], sent: list[torch.Tensor], meanwhile: Callable[[], None]
    ) -> None:
        lengths = [part.numel() for part in sent]
        work = self.alltoall_base(received, torch.cat(sent), sizes, lengths, AllToAllOptions())
        meanwhile()
        work.wait()


class NCCLGroup(StreamGroup, ProcessGroupNCCL):
    """Sends from and to this rank's CUDA device, the current device when the group is created."""

    def __init__(self, timeout: timedelta):
        super().__init__(timeout)
        self.device = torch.device("cuda", torch.cuda.current_device())

    def configure(self, *args, **kwargs) -> None:
        # torch reads the variable when the group is created. With the value that torchtitan sets for the groups within
        # a worker, torch would end the process when a member is lost. Here torchft aborts the group after the timeout.
        before = os.environ.get(_ON_ERROR)
        os.environ[_ON_ERROR] = "0"
        try:
            super().configure(*args, **kwargs)
        finally:
            if before is None:
                del os.environ[_ON_ERROR]
            else:
                os.environ[_ON_ERROR] = before
