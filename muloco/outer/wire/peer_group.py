"""Process groups that carry the bytes of a round between workers: torchft's, which a round can rely on."""

import logging
import os
import re
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import AllToAllOptions
from torchft.process_group import ProcessGroupGloo, ProcessGroupNCCL, ProcessGroupWrapper

from muloco.outer.protocol.admission import Admission, admit
from muloco.outer.protocol.authentication import Key
from muloco.outer.protocol.header import PROTOCOL
from muloco.outer.protocol.reachability import Reachability
from muloco.outer.wire.gate import LOOPBACK
from muloco.outer.wire.network import Network, split

logger = logging.getLogger(__name__)

CUT_OFF = "this worker was cut off"
_ON_ERROR = "TORCH_NCCL_ASYNC_ERROR_HANDLING"


def in_short(error: Exception) -> str:
    """The message of gloo, NCCL or torchft without the place in its source, its advice and its stack."""
    text = str(error).split("\n")[0]
    return re.sub(r"^\[\S+:\d+\] ", "", text).split(". ")[0]


class PeerGroup(ProcessGroupWrapper):
    """Extends a process group of torchft for rounds: a base class to put before torchft's. It remembers the members
    that it connects, and swaps bytes between them."""

    device = torch.device("cpu")
    """Device of the bytes that the group sends and receives."""
    place = 0
    """Rank of this worker among the members."""
    members = 0
    configurations = 0
    _quorum = 0
    """Number of members of the quorum, of which the group may connect only some."""
    _name = ""
    """Prefix of the keys under which the members of this group find each other, within those of the quorum."""
    rendezvous = ""
    """Address at which this member reaches the store in which the members find each other, with the prefix of their
    keys."""
    network = Network(LOOPBACK, b"")
    """The network by which that store is reached."""
    _store = ""
    """Address of that store as announced by the worker that serves it."""
    run_key: Key
    """The key of the run, to be set before the first configuration. Members without it are not connected."""
    admission: Admission
    """The result of the admission in the last configuration."""
    _global_ranks: list[int] | None
    strangers: Sequence[str] = ()
    """Names, as messages show them, of the members that do not hold the secret or use another version of the
    protocol."""
    reachability = Reachability(0, "")
    """State of this worker's connections to the others; without an address it sends them no remark."""
    workers: Sequence[int] = ()
    """The worker numbers of the members of the last quorum, by rank."""
    missed: Collection[int] = ()
    """Members that were silent in the last configuration."""
    _silent: Collection[int] = ()
    """Members of these that did not connect with the others."""

    def configure(self, store_addr, replica_id, rank, world_size, quorum_id=None, *args, **kwargs) -> None:
        self.place, self.members, self.workers = rank, world_size, _workers(rank, *args)
        self._quorum = world_size
        self.configurations += 1
        if self.reachability.settle_alone(self.workers, host=split(store_addr.partition("/")[0])[0]):
            self.abort(errored=False)  # torchft is not told of a failure: the others would have to connect again
            return
        self.rendezvous = self._reach_store(store_addr)
        super().configure(self.rendezvous, replica_id, rank, world_size, quorum_id, *args, **kwargs)

    def _create_pg(self, store: dist.Store, rank: int, world_size: int) -> dist.ProcessGroup:
        """Connects the members of the quorum that hold the secret and do not stay out of the rounds. A member that
        stays out forms a group of its own."""
        workers, reachability = self.workers, self.reachability
        self.admission = admit(
            store,
            self.run_key,
            rank,
            world_size,
            self._timeout,
            remark=reachability.remark(),
            doubtful=[member for member, worker in enumerate(workers) if worker in self._silent and member != rank],
        )
        out = reachability.settle({workers[m]: said for m, said in self.admission.remarks.items() if m < len(workers)})
        self.missed = [workers[m] for m in self.admission.silent if m < len(workers)]
        self._silent = {*self.missed, *out}
        admitted = [m for m in self.admission.admitted if m >= len(workers) or workers[m] not in out]
        if reachability.reason_to_stay_out() is not None:
            admitted = [rank]
        self.strangers = tuple(self._introduce(stranger) for stranger in self.admission.strangers)
        kinds = dict.fromkeys(self.admission.strangers, "does not have the secret of this run (MULOCO_SECRET)")
        for other, version in self.admission.versions.items():
            kinds[other] = f"uses version {version} of the protocol, and this worker version {PROTOCOL}"
        kinds |= dict.fromkeys(self.admission.silent, "did not answer in time")
        for other, kind in kinds.items():
            logger.warning("%s %s; the others go on without it", self.call(other), kind)
        if self._global_ranks is not None:
            self._global_ranks = [self._global_ranks[other] for other in admitted]
        self.place, self.members = admitted.index(rank), len(admitted)
        self._name = self.admission.name + (f"-{rank}" if reachability.reason_to_stay_out() is not None else "")
        store = dist.PrefixStore(self._name, store)
        return super()._create_pg(store, self.place, self.members)

    def call(self, rank: int) -> str:
        """Returns the name of a member of the quorum for messages, such as `worker 1`, by the number that it claims."""
        if self._global_ranks is None:
            return f"member {rank}"
        return f"worker {(self._global_ranks[rank] - (self._group_rank or 0)) // (self._group_world_size or 1)}"

    def _introduce(self, stranger: int) -> str:
        """As `call`, with the version of one that has the secret."""
        version = self.admission.versions.get(stranger)
        return self.call(stranger) + ("" if version is None else f" (version {version} of the protocol)")

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
        """
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
        own = f"{prefix}/" if self.members == self._quorum else f"{prefix}/{self._name}/"
        try:
            store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
            for key in store.list_keys():
                if key.removeprefix("/").startswith(own):
                    store.delete_key(key)
        except RuntimeError as error:
            logger.info("the store at %s:%d does not answer: %s", host, port, in_short(error))


def _workers(rank: int, group_rank: int = 0, group_world_size: int = 1, global_ranks: Sequence[int] = ()) -> list[int]:
    """Returns the numbers of the workers that are members of a quorum, from the arguments that torchft passes to a
    group. `rank` is this member, which is always there."""
    return [(number - group_rank) // group_world_size for number in global_ranks] or [*range(rank + 1)]


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
