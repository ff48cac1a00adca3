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
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torchft.checkpointing import CheckpointTransport

from muloco.outer.authentication import TAG_BYTES, Field, Key
from muloco.outer.exchange import gather_bytes
from muloco.outer.inquiry import ask_all
from muloco.outer.manager import LoopbackManager
from muloco.outer.network import Network
from muloco.outer.peer_group import CUT_OFF, PeerGroup, in_short
from muloco.outer.peers import COMMITTED, FAILED, IN_DOUBT, VOTING, PeerServer, ask, fetch, fetch_part, inquire
from muloco.outer.reachability import Reachability, StaysOut
from muloco.outer.seal import Seal, SecretHash, contents
from muloco.outer.staging import Staging
from muloco.outer.transport import TransportError, Unverified

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
        secret: the secret of the run, at least 16 bytes. Members of a quorum that do not have it are left out, and all
            their messages are ignored.
        worker: id of this worker, from 0.
        least: fewest workers that make a round.
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
        least: int,
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
        self._least = least
        self._quorum_timeout = quorum_timeout
        self._ranks_group = ranks_group
        self._configured = -1  # number of configurations of the group for which `peers` holds
        self._group_name = ""
        self.secret_hash: SecretHash
        """The hash for the seals of the group."""
        self.committed: str | None = None
        """Name of the last round, where it has been committed."""
        self._rounds = 0
        self.peers: list[str] = []
        """Where each member of the group can be asked, in rank order."""
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
        deadline = time.monotonic() + self._quorum_timeout.total_seconds()
        reminder = threading.Timer(
            WAITING_SECONDS, logger.info, ("waiting for %d or more workers after step %d", self._least, step)
        )
        reminder.start()
        try:
            while True:
                round = self._connect(step)
                # The lighthouse also counts members that do not have the secret.
                if self.all_ranks(round.failure is not None or round.size >= self._least):
                    return round
                if self.any_rank(time.monotonic() > deadline):
                    raise TransportError(self._no_quorum(step))
                round.vote(False)
                time.sleep(1)
        finally:
            reminder.cancel()

    def _connect(self, step: int) -> "TorchftRound":
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
        round = TorchftRound(self, step, broken)
        if self._configured != self.group.configurations and broken is None:
            self._introduce(round)
        return round

    def _no_quorum(self, step: int) -> str:
        return (
            f"sync after step {step}: no quorum of {self._least} or more workers within "
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

    def offer(self, round: str, state: bytes) -> None:
        self.server.offer(round, state)

    def fetch(self, round: str, rank: int) -> bytes:
        address = self.peers[rank]
        try:
            return fetch(
                address,
                round,
                key=self.run_key,
                patience=self._quorum_timeout.total_seconds(),
                seconds=self.exchange_seconds,
            )
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
                patience = max(0.0, deadline - time.monotonic())
                found[worker] = fetch_part(known[worker], name, key=self.run_key, patience=patience)
            except OSError as error:
                logger.info("worker %d did not provide part %s: %s", worker, name, error)
        return found

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

    def ask(self, address: str, round: str) -> str | None:
        """Returns what has become of a round at a peer; see `muloco.outer.peers.ask`."""
        return ask(address, round, key=self.run_key, seconds=ASK_SECONDS)

    def _introduce(self, round: "TorchftRound") -> None:
        """Tells the members of a new group the address at which this one answers questions about rounds. The group's
        name and key are unique, even if a restarted lighthouse repeats its quorum numbers."""
        self.peers, self._rounds, self._group_name = [], 1, self.group.admission.name
        self.secret_hash = SecretHash(self.group.admission.key)
        try:
            own = f"{self.server.address} {self._worker}".encode()
            told = [_introduction(data) for data in gather_bytes(round, own)]
        except TransportError as error:
            round.failure = error
            return
        self.peers = [address for address, _ in told]
        met = {worker: address for address, worker in told}
        self._address_of |= met
        self.reachability.introduced(met)
        self._configured = self.group.configurations
        if round.rank == 0:
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
        """The numbers, none below 0, that the ranks of this worker have given, all together."""
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

    def __init__(self, transport: TorchftTransport, step: int, failure: TransportError | None):
        group = transport.group
        self.device = transport.device
        self.wire = transport.staging.wire
        self.rank = group.place
        self.size = group.members
        self.bytes_sent = 0
        self.exchanges = 0
        self.strangers = group.strangers
        self.failure = failure
        """Why nothing can be exchanged any more."""
        self._sent = [Seal() for _ in range(self.size)]
        self._received = [Seal() for _ in range(self.size)]
        self._arrived: list[torch.Tensor] = []
        """Data of the last chunk, which is added to the seals while the next chunk is on its way."""
        self._transport = transport
        self._step = step

    @property
    def name(self) -> str:
        return self._transport.round_name

    def exchange(self, outgoing: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        self._insist_on_connection()
        self.exchanges += 1
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

    def tag(self, rank: int, number: int, data: bytes) -> bytes:
        return self._tag("message", self.name, number, rank, data)

    def call(self, rank: int) -> str:
        peers = self._transport.peers
        return self._transport.group.call(rank) + (f" at {peers[rank]}" if peers else "")

    def vote(self, ok: bool) -> bool:
        transport, name = self._transport, self._transport.round_name
        if ok:
            try:
                self._compare_seals(name)
            except TransportError as error:
                logger.warning("sync after step %d: %s", self._step, error)
                ok = False
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
        if not committed and not isinstance(self.failure, StaysOut):
            transport.group.abort()  # whoever waits for this worker in the exchange need not wait for the timeout
        transport.finish(
            committed=committed, broken=None if self.failure is None else str(self.failure), step=self._step
        )
        return committed

    def _compare_seals(self, name: str) -> None:
        """Checks that everything has arrived as it was sent. This is done before the vote, because a member that has
        received all votes commits.

        Raises:
            TransportError: something has arrived changed, or a member is gone or too slow.
        """
        if self.size == 1:
            return
        sent = contents(self._sent)
        # While these tags are on their way, what arrived last is added to the seals.
        theirs = self._exchange_tags([self._tag("seal", name, self.rank, r, sent[r]) for r in range(self.size)])
        received = contents(self._received)
        damaged = [
            r
            for r, tag in enumerate(theirs)
            if r != self.rank and not self._holds(tag, "seal", name, r, self.rank, received[r])
        ]
        if damaged:
            raise Unverified(f"what {', '.join(map(self.call, damaged))} sent arrived damaged", damaged)

    def _exchange_votes(self, name: str) -> None:
        """Exchanges votes. A yes is a tag with the group's key over the name of the round and the voting member."""
        theirs = self._exchange_tags([self._tag("vote", name, self.rank)] * self.size)
        bad = [r for r, tag in enumerate(theirs) if not self._holds(tag, "vote", name, r)]
        if bad:
            raise Unverified(f"{', '.join(map(self.call, bad))} sent bytes that are not a vote on this round", bad)

    def _exchange_tags(self, tags: Sequence[bytes]) -> list[bytes]:
        """Sends a tag to each member."""
        outgoing = [torch.frombuffer(bytearray(tag), dtype=torch.uint8).to(self.wire) for tag in tags]
        return [tag.cpu().numpy().tobytes() for tag in self.exchange(outgoing, [TAG_BYTES] * self.size)]

    def _tag(self, purpose: str, *fields: Field) -> bytes:
        return self._transport.group.admission.key.tag(purpose, *fields)

    def _holds(self, tag: bytes, purpose: str, *fields: Field) -> bool:
        return self._transport.group.admission.key.holds(tag, purpose, *fields)

    def _insist_on_connection(self) -> None:
        if self.failure is None and not self._transport.group.connected:
            self.failure = TransportError(CUT_OFF)
        if self.failure is not None:
            raise self.failure

    def _exchange_chunk(
        self, outgoing: list[torch.Tensor], sizes: list[int], device: torch.device
    ) -> list[torch.Tensor]:
        self._insist_on_connection()
        staging = self._transport.staging
        received, staged = staging.room(sum(sizes)), staging.to_wire(outgoing)
        try:
            self._transport.group.swap(received, sizes, staged, lambda: self._seal(staged))
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # this worker's own device has failed
        except RuntimeError as error:
            self.failure = TransportError(f"lost contact with another worker: {in_short(error)}")
            raise self.failure from error
        self.bytes_sent += sum(part.numel() for part in outgoing)
        self._arrived = list(received.split(sizes))
        return list(staging.from_wire(received, device).split(sizes))

    def _seal(self, outgoing: Sequence[torch.Tensor]) -> None:
        """Adds the data that goes to each member to its seal, and the data that came with the chunk before. Both are in
        the memory from which the group sends."""
        arrived, self._arrived = self._arrived, []
        if arrived:
            self._add(self._received, arrived)
        if outgoing:
            self._add(self._sent, outgoing)

    def _add(self, seals: Sequence[Seal], parts: Sequence[torch.Tensor]) -> None:
        """Adds a part to the seal of each member. Data for several members is hashed once."""
        known: dict[tuple[int, int], torch.Tensor] = {}
        for seal, part in zip(seals, parts, strict=True):
            place = part.data_ptr(), part.numel()
            if part.numel() and place not in known:
                known[place] = self._transport.secret_hash.of(part)
            if part.numel():
                seal.add(part, known[place])

    def _ask_others(self, name: str) -> bool:
        """Whether a peer has committed the round; where none that is alive has, none will: all of them have failed."""
        self._transport.server.say(name, IN_DOUBT)  # from here on this rank does not commit unless another one has
        waiting = {rank: peer for rank, peer in enumerate(self._transport.peers) if rank != self.rank}
        deadline = time.monotonic() + 2 * self._transport.exchange_seconds  # a peer may have begun to vote only now
        while waiting and time.monotonic() < deadline:
            for rank, address in list(waiting.items()):
                answer = self._transport.ask(address, name)
                if answer == COMMITTED:
                    return True
                if answer != VOTING:
                    del waiting[rank]
            time.sleep(0.05)
        return False


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
