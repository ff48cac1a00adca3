"""The transport for workers that are processes: torchft's manager decides which take part, and its process group
carries the bytes.

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
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torchft.checkpointing import CheckpointTransport

from muloco.outer.protocol.authentication import Key
from muloco.outer.protocol.exchange import gather_bytes
from muloco.outer.protocol.reachability import Reachability
from muloco.outer.protocol.seal import SecretHash
from muloco.outer.protocol.transport import TransportError
from muloco.outer.wire.inquiry import ask_all
from muloco.outer.wire.manager import LoopbackManager
from muloco.outer.wire.network import Network
from muloco.outer.wire.peer_group import CUT_OFF, PeerGroup, in_short
from muloco.outer.wire.peers import IN_DOUBT, VOTING, PeerServer, ask, fetch, fetch_part, inquire
from muloco.outer.wire.staging import Staging
from muloco.outer.wire.torchft_round import TorchftRound

logger = logging.getLogger(__name__)

ASK_SECONDS = 5.0
WAITING_SECONDS = 30.0
"""Seconds after which a worker says that it waits for others."""


class TorchftTransport:
    """One rank's end of a run that meets at a torchft lighthouse.

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

    concurrent = True

    def __init__(
        self,
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
    ):
        if ranks > 1 and ranks_group is None:
            raise ValueError(f"a worker of {ranks} ranks needs a group in which they agree (ranks_group)")
        self.device = torch.device(device)
        self.staging = Staging(self.device, group.device)
        self.group = group
        self.run_key = group.run_key = Key(secret)
        self.server = PeerServer(host, self.run_key)
        self.exchange_seconds = exchange_timeout.total_seconds()
        self._worker = worker
        self._min_replica_size = min_replica_size
        self._quorum_timeout = quorum_timeout
        self._ranks_group = ranks_group
        self._configured = -1  # number of configurations of the group for which `peers` holds
        self._group_name = ""
        self.secret_hash: SecretHash
        """The hash for the seals of the group."""
        self.committed: str | None = None
        """Name of the last round, if it was committed."""
        self._rounds = 0
        self.peers: list[str] = []
        """Address of each member of the group for requests, in rank order."""
        self._address_of: dict[int, str] = {}
        """Last known address of each worker that this one has met so far, by worker."""
        self.reachability = group.reachability = Reachability(worker, self.server.address)
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
            min_replica_size=min_replica_size,
            use_async_quorum=False,
            timeout=exchange_timeout,
            quorum_timeout=quorum_timeout,
            quorum_retries=int(quorum_timeout.total_seconds()),  # one a second, while the lighthouse is away
            checkpoint_transport=_NoHealing(),
            init_sync=False,  # torchft's default throws away the first window of every worker but one
        )

    def open(self, step: int) -> TorchftRound:
        # For torchft all workers are always at the same step, so that it heals none of them.
        self._manager.load_state_dict({"step": 0, "batches_committed": 0})
        deadline = time.monotonic() + self._quorum_timeout.total_seconds()
        reminder = threading.Timer(
            WAITING_SECONDS, logger.info, ("waiting for %d or more workers after step %d", self._min_replica_size, step)
        )
        reminder.start()
        try:
            while True:
                this_round = self._connect(step)
                # The lighthouse also counts members that do not have the secret.
                if self.all_ranks(this_round.failure is not None or this_round.size >= self._min_replica_size):
                    return this_round
                if self.any_rank(time.monotonic() > deadline):
                    raise TransportError(self._no_quorum(step))
                this_round.vote(False)
                time.sleep(1)
        finally:
            reminder.cancel()

    def _connect(self, step: int) -> TorchftRound:
        """Opens a round with the members of a quorum that hold the secret.

        Raises:
            TransportError: there is no quorum within the timeout.
        """
        self.reachability.elsewhere = self._of_all_ranks(self.reachability.apart())
        try:
            self._manager.start_quorum(allow_heal=False)
        except (RuntimeError, TimeoutError) as error:
            raise TransportError(f"{self._no_quorum(step)}: {error}") from error
        self._rounds += 1
        failure, broken = self._manager.errored(), None
        if failure is not None:
            broken = TransportError(f"the workers could not be connected: {in_short(failure.original_exception)}")
        if (reason := self.reachability.reason_to_stay_out()) is not None:
            broken = reason
        if not self._ranks_have_met_the_same():
            broken = broken or TransportError("the ranks of this worker have met different workers")
        this_round = TorchftRound(self, step, broken)
        if self._configured != self.group.configurations and broken is None:
            self._introduce(this_round)
        return this_round

    def _no_quorum(self, step: int) -> str:
        return (
            f"sync after step {step}: no quorum of {self._min_replica_size} or more workers within "
            f"{self._quorum_timeout.total_seconds():g} s (fault_tolerance.quorum_timeout_seconds)"
        )

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
        if not committed and self.reachability.reason_to_stay_out() is None:
            self.reachability.failed(self.group.workers)
        elif committed and self.group.missed:
            self.reachability.failed(self.group.missed)
            self.group.missed = ()
        elif committed:
            self.reachability.look_again_meanwhile()
        if (not committed or broken is not None) and not self.reachability.keeps_out():
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

    def offer(self, name: str, state: bytes) -> None:
        self.server.offer(name, state)

    def fetch(self, name: str, rank: int) -> bytes:
        address = self.peers[rank]
        try:
            return fetch(
                address,
                name,
                key=self.run_key,
                patience=self._quorum_timeout.total_seconds(),
                seconds=self.exchange_seconds,
            )
        except OSError as error:
            raise TransportError(f"no state from the worker at {address} after round {name}: {error}") from error

    def publish(self, name: str, part: bytes) -> None:
        self.server.publish(name, part)

    def collect(self, name: str, workers: Collection[int], patience: float) -> dict[int, bytes]:
        deadline = time.monotonic() + patience
        known, parts = self._address_of, {}
        for worker in workers:
            if worker == self._worker or worker not in known:
                continue
            try:
                patience = max(0.0, deadline - time.monotonic())
                parts[worker] = fetch_part(known[worker], name, key=self.run_key, patience=patience)
            except OSError as error:
                logger.info("worker %d did not provide part %s: %s", worker, name, error)
        return parts

    def answer(self, question: str, answer: Callable[[], bytes]) -> None:
        self.server.answers[question] = lambda name: answer()

    def inquire(self, question: str, seconds: float) -> list[bytes]:
        others = [address for worker, address in self._address_of.items() if worker != self._worker]
        return ask_all(others, partial(inquire, question=question, key=self.run_key, seconds=seconds), seconds=seconds)

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
            waiting = [peer for peer in waiting if self.ask(peer, name) in (VOTING, IN_DOUBT)]
            time.sleep(0.05 if waiting else 0)

    def ask(self, address: str, name: str) -> str | None:
        """Returns what has become of a round at a peer; see `muloco.outer.wire.peers.ask`."""
        return ask(address, name, key=self.run_key, seconds=ASK_SECONDS)

    def _introduce(self, this_round: TorchftRound) -> None:
        """Tells the members of a new group the address at which this one answers questions about rounds. The group's
        name and key are unique, even if a restarted lighthouse repeats its quorum numbers."""
        self.peers, self._rounds, self._group_name = [], 1, self.group.admission.name
        self.secret_hash = SecretHash(self.group.admission.key)
        try:
            own = f"{self.server.address} {self._worker}".encode()
            told = [_introduction(data) for data in gather_bytes(this_round, own)]
        except TransportError as error:
            this_round.failure = error
            return
        self.peers = [address for address, _ in told]
        met = {worker: address for address, worker in told}
        self._address_of |= met
        self.reachability.introduced(met)
        self._configured = self.group.configurations
        if this_round.rank == 0:
            self.group.forget_rendezvous(timedelta(seconds=self.exchange_seconds))

    def _ranks_have_met_the_same(self) -> bool:
        """Whether the groups of all ranks of this worker have the same members."""
        if self._ranks_group is None:
            return True
        met = (self.group.admission.admitted, sorted(self.reachability.out)) if self.group.connected else ()
        number = int.from_bytes(hashlib.sha256(repr(met).encode()).digest()[:7], "big")
        bounds = torch.tensor([number, -number])
        dist.all_reduce(bounds, dist.ReduceOp.MIN, group=self._ranks_group)
        return bool(bounds[0] == -bounds[1])

    def _of_all_ranks(self, numbers: Sequence[int]) -> set[int]:
        """Returns all the numbers, none below 0, that the ranks of this worker have given."""
        if self._ranks_group is None:
            return set(numbers)
        most = torch.tensor(len(numbers))
        dist.all_reduce(most, dist.ReduceOp.MAX, group=self._ranks_group)
        if not most:
            return set()
        own = torch.full((int(most),), -1)
        own[: len(numbers)] = torch.tensor(numbers, dtype=own.dtype)
        given = [torch.empty_like(own) for _ in range(self._ranks_group.size())]
        dist.all_gather(given, own, group=self._ranks_group)
        return {number for part in given for number in part.tolist()} - {-1}

    @property
    def round_name(self) -> str:
        """Name of the open round, equal on all members."""
        return f"{self._group_name}-{self._rounds}"

    def _reduce(self, value: bool, operation: Any) -> bool:
        if self._ranks_group is None:
            return value
        flag = torch.tensor(int(value))
        dist.all_reduce(flag, operation, group=self._ranks_group)
        return bool(flag)


def _introduction(told: bytes) -> tuple[str, int]:
    """Parses the message of a member at the start of a group: its address and its worker id.

    Raises:
        TransportError: the message is none of this kind.
    """
    said = re.fullmatch(rb"([!-~]+:\d{1,5}) (\d{1,9})", told)
    if said is None:
        raise TransportError(f"a member sent bytes that are not its address: {told[:80]!r}")
    return said[1].decode(), int(said[2])


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
