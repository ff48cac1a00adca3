"""Workers as processes: torchft's manager says who takes part, its process group carries the bytes.

torchft decides membership alone. Its `should_commit` is a barrier of the ranks of one worker and lets workers differ,
so muloco takes the vote itself, and torchft's answer afterwards says whether the connections have held. torchft's
DiLoCo is not used (`tests/outer` compares it with muloco's).
"""

import hashlib
import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torchft.checkpointing import CheckpointTransport

from muloco.outer.exchange import gather_bytes
from muloco.outer.manager import LoopbackManager
from muloco.outer.network import Network
from muloco.outer.peer_group import CUT_OFF, PeerGroup, in_short
from muloco.outer.peers import COMMITTED, FAILED, IN_DOUBT, VOTING, PeerServer, ask, fetch, fetch_part
from muloco.outer.staging import Staging
from muloco.outer.transport import TransportError

logger = logging.getLogger(__name__)

CHUNK_BYTES = 16 * 2**20
"""Most bytes that one worker sends to another at once: the exchange timeout guards one such chunk."""
ASK_SECONDS = 5.0
WAITING_SECONDS = 30.0
"""After so long a worker says that it waits for others."""


class TorchftTransport:
    """One rank's end of a run that meets at a torchft lighthouse.

    Args:
        run: name of the run; part of the worker's identity at the lighthouse.
        worker: id of this worker, from 0.
        least: fewest workers that make a round.
        lighthouse: address of the lighthouse, `http://host:port`.
        rank: which of the worker's ranks this is, of `ranks`.
        host: name or address under which other workers reach this rank.
        secret: of the run.
        group: carries the bytes: `GlooGroup`, `NCCLGroup` or another `PeerGroup`, used by nothing else.
        device: the device of the parameters, which makes and reads payloads.
        quorum_timeout: how long to wait for the other workers at a sync.
        exchange_timeout: how long a chunk of an exchange may take.
        ranks_group: gloo group of the worker's ranks, used by nothing else; None for a single rank.
    """

    concurrent = True

    def __init__(
        self,
        *,
        run: str,
        worker: int,
        least: int,
        lighthouse: str,
        rank: int,
        ranks: int,
        host: str,
        secret: bytes,
        group: PeerGroup,
        device: torch.device | str = "cpu",
        quorum_timeout: timedelta,
        exchange_timeout: timedelta,
        ranks_group: dist.ProcessGroup | None = None,
    ):
        if ranks > 1 and ranks_group is None:
            raise ValueError(f"a worker of {ranks} ranks needs a group in which they agree (ranks_group)")
        self.device = torch.device(device)
        self.staging = Staging(self.device, group.device)
        self.group = group
        self.server = PeerServer(host)
        self.exchange_seconds = exchange_timeout.total_seconds()
        self._worker = worker
        self._least = least
        self._quorum_timeout = quorum_timeout
        self._ranks_group = ranks_group
        self._configured = -1  # number of configurations of the group for which `peers` holds
        self._group_name = ""
        self.committed: str | None = None
        """Name of the last round, where it has been committed."""
        self._rounds = 0
        self.peers: list[str] = []
        """Where each member of the group can be asked, in rank order."""
        self._address_of: dict[int, str] = {}
        """The same, by worker."""
        self.network = self.group.network = Network(host, secret, on_loss=_end_without_network)
        self._manager = LoopbackManager(
            network=self.network,
            lighthouse=lighthouse,
            name=f"{run}_{worker:03d}",  # zero-padded: torchft orders workers by it
            rank=rank,
            ranks=ranks,
            ranks_group=ranks_group,
            pg=self.group,
            load_state_dict=None,
            state_dict=None,
            min_replica_size=least,
            use_async_quorum=False,
            timeout=exchange_timeout,
            quorum_timeout=quorum_timeout,
            quorum_retries=int(quorum_timeout.total_seconds()),  # one a second, while the lighthouse is away
            checkpoint_transport=_NoHealing(),
            init_sync=False,  # torchft's default throws away the first window of every worker but one
        )

    def open(self, step: int) -> "TorchftRound":
        # For torchft all workers are always at the same step, so that it heals none of them.
        self._manager.load_state_dict({"step": 0, "batches_committed": 0})
        reminder = threading.Timer(
            WAITING_SECONDS, logger.info, ("waiting for %d or more workers after step %d", self._least, step)
        )
        reminder.start()
        try:
            self._manager.start_quorum(allow_heal=False)
        except (RuntimeError, TimeoutError) as error:
            raise TransportError(
                f"sync after step {step}: no quorum of {self._least} or more workers within "
                f"{self._quorum_timeout.total_seconds():g} s (fault_tolerance.quorum_timeout_seconds): {error}"
            ) from error
        finally:
            reminder.cancel()
        self._rounds += 1
        failure = self._manager.errored()
        broken = (
            None if failure is None else f"the workers could not be connected: {in_short(failure.original_exception)}"
        )
        round = TorchftRound(self, step, broken)
        if self._configured != self.group.configurations and broken is None:
            self._introduce(round)
        return round

    def finish(self, *, committed: bool, broken: str | None, step: int) -> None:
        """Tells torchft how a round ended. If connections have failed, torchft makes new ones for the next round.

        The vote has been taken by now, and torchft's answer does not change it, since the other workers may have
        committed. The answer says whether the connections of all ranks of this worker have held. If they have not,
        nothing is sent over them any more.

        Args:
            committed: whether the round was committed.
            broken: why this rank cannot exchange any more; None if it can.
            step: inner step of the sync.

        Raises:
            TransportError: a rank of this worker does not answer.
        """
        if committed and broken is None and not self.group.connected:
            broken = CUT_OFF
        if not committed or broken is not None:
            self._manager.report_error(RuntimeError(broken or "the round failed"))
        try:
            held = self._manager.should_commit()
        except (RuntimeError, TimeoutError) as error:
            raise TransportError(f"sync after step {step}: the ranks of this worker did not agree: {error}") from error
        if committed and not held:
            failure = self._manager.errored()
            elsewhere = "on another rank of this worker" if failure is None else in_short(failure.original_exception)
            logger.warning("sync after step %d: committed, but connections failed: %s", step, broken or elsewhere)
        if not held:
            self.group.abort()

    def all_ranks(self, value: bool) -> bool:
        """Whether it holds on all ranks of this worker."""
        return self._reduce(value, dist.ReduceOp.MIN)

    def any_rank(self, value: bool) -> bool:
        """Whether it holds on one of the ranks of this worker."""
        return self._reduce(value, dist.ReduceOp.MAX)

    def offer(self, round: str, state: bytes) -> None:
        self.server.offer(round, state)

    def fetch(self, round: str, rank: int) -> bytes:
        address = self.peers[rank]
        try:
            return fetch(address, round, patience=self._quorum_timeout.total_seconds(), seconds=self.exchange_seconds)
        except OSError as error:
            raise TransportError(f"no state from the worker at {address} after round {round}: {error}") from error

    def publish(self, name: str, part: bytes) -> None:
        self.server.publish(name, part)

    def collect(self, name: str, workers: Collection[int], patience: float) -> dict[int, bytes]:
        deadline = time.monotonic() + patience
        known, found = self._address_of, {}
        for worker in workers:
            if worker == self._worker or worker not in known:
                continue
            try:
                found[worker] = fetch_part(known[worker], name, patience=max(0.0, deadline - time.monotonic()))
            except OSError as error:
                logger.info("worker %d did not provide part %s: %s", worker, name, error)
        return found

    def cut(self) -> None:
        self.group.abort()

    def close(self) -> None:
        if self.committed is not None:
            self._answer_those_in_doubt(self.committed)
        self._manager.shutdown(wait=False)
        self.group.abort()
        self.server.close()
        self.network.close()

    def _answer_those_in_doubt(self, name: str) -> None:
        """Stays until no other member needs to hear from this one that the round has been committed."""
        waiting = [address for address in self.peers if address != self.server.address]
        deadline = time.monotonic() + 2 * self.exchange_seconds
        while waiting and time.monotonic() < deadline:
            waiting = [peer for peer in waiting if ask(peer, name, seconds=ASK_SECONDS) in (VOTING, IN_DOUBT)]
            time.sleep(0.05 if waiting else 0)

    def _introduce(self, round: "TorchftRound") -> None:
        """Tells the members of a new group where to ask this one about rounds, and gives the group the name that its
        first member draws: a lighthouse that was started again repeats its numbers."""
        own = f"{self.server.address} {uuid.uuid4().hex[:8]} {self._worker}"
        try:
            told = [_introduction(data) for data in gather_bytes(round, own.encode())]
        except TransportError as error:
            round.broken = str(error)
            return
        self.peers = [address for address, _, _ in told]
        self._address_of = {worker: address for address, _, worker in told}
        self._group_name = told[0][1]
        self._configured = self.group.configurations
        self._rounds = 1
        if round.rank == 0:
            self.group.forget_rendezvous(timedelta(seconds=self.exchange_seconds))

    @property
    def round_name(self) -> str:
        """What all members call the round that is open."""
        return f"{self._group_name}-{self._rounds}"

    def _reduce(self, value: bool, operation: Any) -> bool:
        if self._ranks_group is None:
            return value
        flag = torch.tensor(int(value))
        dist.all_reduce(flag, operation, group=self._ranks_group)
        return bool(flag)


class TorchftRound:
    """See `muloco.outer.transport.Round`."""

    def __init__(self, transport: TorchftTransport, step: int, broken: str | None):
        self.device = transport.device
        self.wire = transport.staging.wire
        self.rank = transport.group.place
        self.size = transport.group.members
        self.bytes_sent = 0
        self.broken = broken
        """Why nothing can be exchanged any more."""
        self._transport = transport
        self._step = step

    @property
    def name(self) -> str:
        return self._transport.round_name

    def exchange(self, outgoing: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        self._insist_on_connection()
        own = outgoing[self.rank]  # stays here
        outgoing = [part[:0] if r == self.rank else part for r, part in enumerate(outgoing)]
        sizes = [0 if r == self.rank else size for r, size in enumerate(sizes)]
        longest = max([*sizes, *(part.numel() for part in outgoing)])
        chunks = [
            self._exchange_chunk(
                [part[start : start + CHUNK_BYTES] for part in outgoing],
                [min(CHUNK_BYTES, max(0, size - start)) for size in sizes],
                own.device,
            )
            for start in range(0, longest, CHUNK_BYTES)
        ]
        if len(chunks) == 1:
            received = chunks[0]
        else:
            received = [torch.cat([chunk[r] for chunk in chunks]) if chunks else own[:0] for r in range(self.size)]
        received[self.rank] = own
        return received

    def vote(self, ok: bool) -> bool:
        transport, name = self._transport, self._transport.round_name
        ok = transport.all_ranks(ok and transport.server.begin_vote(name))
        committed = False
        if ok:
            try:
                self._exchange_votes(name)
                committed = True
            except TransportError as error:
                logger.warning("sync after step %d: %s; asking the others whether they committed it", self._step, error)
                committed = self._ask_others(name)
        # Each rank of each worker has all it needs once its worker has said ok, so that one who knows is enough.
        committed = transport.any_rank(committed)
        transport.server.say(name, COMMITTED if committed else FAILED)
        transport.committed = name if committed else None
        if not committed:
            transport.group.abort()  # whoever waits for this worker in the exchange need not wait for the timeout
        transport.finish(committed=committed, broken=self.broken, step=self._step)
        return committed

    def _exchange_votes(self, name: str) -> None:
        """Exchanges votes. A yes is a digest of the name of the round, so that no other bytes are mistaken for it."""
        yes = torch.frombuffer(bytearray(hashlib.sha256(name.encode()).digest()), dtype=torch.uint8).to(self.wire)
        votes = self.exchange([yes] * self.size, [yes.numel()] * self.size)
        if not all(torch.equal(vote, yes) for vote in votes):
            raise TransportError("another worker sent bytes that are not its vote on this round")

    def _insist_on_connection(self) -> None:
        if self.broken is None and not self._transport.group.connected:
            self.broken = CUT_OFF
        if self.broken is not None:
            raise TransportError(self.broken)

    def _exchange_chunk(
        self, outgoing: list[torch.Tensor], sizes: list[int], device: torch.device
    ) -> list[torch.Tensor]:
        self._insist_on_connection()
        staging = self._transport.staging
        received, outgoing = staging.room(sum(sizes)), staging.to_wire(outgoing)
        try:
            self._transport.group.swap(received, sizes, outgoing)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # this worker's own device has failed
        except RuntimeError as error:
            self.broken = f"lost contact with another worker: {in_short(error)}"
            raise TransportError(self.broken) from error
        self.bytes_sent += sum(part.numel() for part in outgoing)
        return list(staging.from_wire(received, device).split(sizes))

    def _ask_others(self, name: str) -> bool:
        """Whether a peer has committed the round; where none that is alive has, none will: all of them have failed."""
        self._transport.server.say(name, IN_DOUBT)  # from here on this rank does not commit unless another one has
        waiting = {rank: peer for rank, peer in enumerate(self._transport.peers) if rank != self.rank}
        deadline = time.monotonic() + 2 * self._transport.exchange_seconds  # a peer may have begun to vote only now
        while waiting and time.monotonic() < deadline:
            for rank, address in list(waiting.items()):
                answer = ask(address, name, seconds=ASK_SECONDS)
                if answer == COMMITTED:
                    return True
                if answer != VOTING:
                    del waiting[rank]
            time.sleep(0.05)
        return False


def _introduction(told: bytes) -> tuple[str, str, int]:
    """Parses the message of a member at the start of a group: its address, a name for the group, and its worker id.

    Raises:
        TransportError: the message is none of this kind.
    """
    said = re.fullmatch(rb"([!-~]+:\d{1,5}) ([0-9a-f]{8}) (\d{1,9})", told)
    if said is None:
        raise TransportError(f"a member sent bytes that are not its address: {told[:80]!r}")
    return said[1].decode(), said[2].decode(), int(said[3])


def _end_without_network() -> None:
    """Ends this process, which others cannot reach any more: as with a machine that has lost its network, no more can
    be done here, while the supervisor can start it again."""
    logger.critical("the process that carries the connections of this worker has ended, so this one ends, too")
    os._exit(1)


class _NoHealing(CheckpointTransport[dict[str, object]]):
    """torchft heals no worker: every round asks it for none. Its default would serve the weights to whoever asks, on
    all interfaces."""

    def metadata(self) -> str:
        return ""

    def send_checkpoint(self, dst_ranks, step, state_dict, timeout) -> None:
        raise TransportError("torchft asked to send a checkpoint, though no round allows healing")

    def recv_checkpoint(self, src_rank, metadata, step, timeout) -> dict[str, object]:
        raise TransportError("torchft asked to receive a checkpoint, though no round allows healing")

    def disallow_checkpoint(self) -> None:
        pass
