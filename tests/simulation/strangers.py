"""Processes that come to the lighthouse of a run and do not belong to it."""

from typing import TYPE_CHECKING, Any

import torch

from muloco.outer import OuterLoop, QuorumPolicy, WorkerIdentity
from muloco.outer.protocol.authentication import TAG_BYTES, Key
from muloco.outer.protocol.header import PROTOCOL
from muloco.outer.protocol.peer_transport import PeerTransport
from muloco.outer.protocol.wire import Rendezvous
from tests.simulation import toy
from tests.simulation.lighthouse import Met
from tests.simulation.ranks import Ranks
from tests.simulation.wire import SimulatedClock, SimulatedWire
from tests.simulation.world import Killed, Process, Violation

if TYPE_CHECKING:
    from tests.simulation.run import Run

KINDS = (
    "secret",  # does not hold the secret
    "copy",  # does not hold the secret, and writes the proof of another member into the place of its own
    "version",  # holds the secret, but uses another version of the protocol
    "terms",  # holds the secret, but has another config
    "run",  # holds the secret, but is of another run
    "number",  # is of this run, with a number that it has no worker of
)
LEFT_OUT = KINDS[:3]
"""Those that must not even be admitted to a group."""


class Stranger:
    """A process that does not belong to the run, and comes again whenever it is refused.

    Args:
        run: to whose lighthouse it comes.
        kind: see `KINDS`.
        worker: the number that it claims.
        place: whether its name comes `first`, `last`, or `among` those of the workers, in which order they are members.
    """

    def __init__(self, run: "Run", kind: str, worker: int, place: str):
        self._run, self._kind, self._worker = run, kind, worker
        self._prefix = {"first": "a", "last": "z"}.get(place, "run")
        number = len(run.strangers)
        self.process = Process(run.world, f"stranger {number}", f"x{number}")
        run.strangers[self.process.machine] = kind
        holds = kind not in ("secret", "copy")
        self._key = run.key if holds else Key(f"the secret of stranger {number}".encode())
        run.world.tell(self.process.name, f"comes as worker {worker} ({kind})")
        run.world.spawn(self.process, self._come, "main")

    def _come(self) -> None:
        world = self._run.world
        while True:
            transport = None
            try:
                transport, loop = self._join()
                loop.start(0)
            except (Killed, Violation):
                raise
            except Exception as error:
                world.here()
                world.tell(self.process.name, f"is not taken in: {error}")
            if transport is not None:
                transport.close()
            world.sleep(world.random.uniform(0.5, 2.0))

    def _join(self) -> tuple[PeerTransport, OuterLoop]:
        """Returns what it needs to begin."""
        run, shape, costs, kind = self._run, self._run.shape, self._run.shape.costs, self._kind
        options: dict[str, Any] = {
            "min_replica_size": 1,
            "quorum_seconds": costs.quorum_timeout,
            "exchange_seconds": costs.exchange_timeout,
        }
        name = f"{self._prefix}_{self._worker:03d}"
        ranks = Ranks(run.network, run.lighthouse, run.ledger, self._worker, [self.process])
        wire = StrangersWire(run.network, ranks, 0, name, self._key, **options)
        wire.kind, wire.members_key = kind, self._key
        transport = PeerTransport(
            SimulatedClock(self.process), wire, self._key, worker=self._worker, device=torch.device("cpu"), **options
        )
        loop = OuterLoop(
            toy.parameters(toy.start())[1],
            lambda anchor: torch.optim.SGD(
                anchor.values(), lr=toy.LEARNING_RATE, momentum=toy.MOMENTUM, nesterov=True, foreach=False
            ),
            transport,
            identity=WorkerIdentity(
                run=f"run of {self.process.name}" if kind == "run" else "run",
                worker=shape.workers + self._worker if kind == "number" else self._worker,
                workers=shape.workers,
            ),
            quorum=QuorumPolicy(  # so that it never begins a run alone
                min_replica_size=shape.workers,
                straggler_timeout_seconds=costs.straggler_timeout,
                quorum_timeout_seconds=costs.quorum_timeout,
            ),
            sync_interval=shape.interval,
            fragments=toy.FRAGMENTS[shape.fragments],
            delay=shape.delay,
            compression=shape.compression(),
            settings={"training.seed": 1} if kind == "terms" else None,
        )
        loop.membership.commit = loop.membership.take_over = self._is_taken_in  # type: ignore[method-assign, assignment]
        return transport, loop

    def _is_taken_in(self, *_: object) -> None:
        raise Violation(f"{self.process.name} ({self._kind}) has been taken into a round")


class StrangersWire(SimulatedWire):
    """The wire of a stranger, which may write other entries than the engine does."""

    kind = ""
    members_key: Key

    def shared(self, met: Met) -> Rendezvous:
        entries, rank = super().shared(met), [m.replica for m in met.members].index(self._ranks.replica)
        if self.kind == "version":
            return _OfAnotherVersion(entries, self.members_key)
        if self.kind == "copy" and len(met.members) > 1:
            other = f"proof/{int(rank == 0)}"
            return _Copying(entries, own=f"proof/{rank}", other=other, seconds=self._exchange_seconds)
        return entries


class _OfAnotherVersion:
    """See `muloco.outer.protocol.wire.Rendezvous`: what is written says that it is of the next version of the protocol,
    and what is read of this version seems to be of another one."""

    def __init__(self, entries: Rendezvous, key: Key):
        self._entries, self._key = entries, key

    def set(self, key: str, value: str) -> None:
        self._entries.set(key, self._exchanged(key, value.encode()).decode())

    def collect(self, keys: Any, seconds: float) -> list[bytes]:
        read = self._entries.collect(keys, seconds)
        return [self._exchanged(key, value) for key, value in zip(keys, read, strict=True)]

    def _exchanged(self, key: str, value: bytes) -> bytes:
        kind, rank = key.split("/")
        if kind != "proof" or not value:
            return value
        version, proof = int(value.split()[0]), bytes.fromhex(value.split()[1].decode())
        other, seen = (PROTOCOL if version > PROTOCOL else PROTOCOL + 1), proof[:TAG_BYTES]
        return f"{other} {(seen + self._key.tag('admission', other, int(rank), seen)).hex()}".encode()


class _Copying:
    """See `muloco.outer.protocol.wire.Rendezvous`: instead of its own proof it writes that of another member."""

    def __init__(self, entries: Rendezvous, *, own: str, other: str, seconds: float):
        self._entries, self._own, self._other, self._seconds = entries, own, other, seconds

    def set(self, key: str, value: str) -> None:
        if key == self._own:
            (copied,) = self._entries.collect([self._other], self._seconds)
            value = copied.decode() or value
        self._entries.set(key, value)

    def collect(self, keys: Any, seconds: float) -> list[bytes]:
        return self._entries.collect(keys, seconds)
