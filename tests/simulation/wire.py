"""The clock and the wire of a worker in the simulated world: see `muloco.outer.protocol`."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

import torch

from muloco.outer.protocol import authentication
from muloco.outer.protocol.authentication import Key
from muloco.outer.protocol.group import Group
from muloco.outer.protocol.requests import Answer, Request, is_authentic
from muloco.outer.protocol.wire import CUT_OFF, Quorum, Rendezvous
from tests.simulation.forger import ForgedBytes, ForgedParts
from tests.simulation.lighthouse import Member, Met
from tests.simulation.members import End
from tests.simulation.network import Network
from tests.simulation.ranks import Ranks, of_rank
from tests.simulation.store import StoreClient
from tests.simulation.world import Process, Task, Violation, World

FIRST_GROUP_RANK = 1
"""The rank by which `muloco.outer.wire.manager` introduces the first rank of a worker to torchft."""


class SimulatedClock:
    """See `muloco.outer.protocol.clock.Clock`.

    Args:
        process: whose clock it is.
        hasty: whether inner steps may be over before a task has begun that was started before them.
    """

    def __init__(self, process: Process, *, hasty: bool = False):
        self._process, self._world, self._hasty = process, process.world, hasty

    def now(self) -> float:
        self._world.here()
        return self._world.now + self._process.jump

    def sleep(self, seconds: float) -> None:
        self._world.sleep(seconds)

    def start(self, work: Callable[[], object], name: str) -> Task:
        self._world.here()
        late, self._process.starved = self._process.starved, 0.0
        if self._hasty:
            late += self._world.some_lateness()
        return self._world.spawn(self._process, work, name, late)

    def condition(self) -> "SimulatedCondition":
        return SimulatedCondition(self._world)


class SimulatedCondition:
    """See `muloco.outer.protocol.clock.Condition`. Only one task runs at a time, so there is no lock."""

    def __init__(self, world: World):
        self._world = world
        self._waiting: list[Task] = []

    def __enter__(self) -> bool:
        if self._world.current is not None:
            self._world.may_be_late()
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        world = self._world
        task, deadline = world.here(), None if timeout is None else world.now + timeout
        while not predicate():
            if deadline is not None and world.now >= deadline:
                return False
            self._waiting.append(task)
            try:
                world.wait(None if deadline is None else deadline - world.now)
            finally:
                if task in self._waiting:
                    self._waiting.remove(task)
        return True

    def notify_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            self._world.wake(task)


@contextlib.contextmanager
def seeded_nonces(world: World) -> Iterator[None]:
    """A context in which the random bytes of the protocol come from the world's seed."""

    class Seeded:
        token_bytes = staticmethod(world.random.randbytes)

    before = authentication.secrets
    authentication.secrets = Seeded  # type: ignore[assignment, attr-defined]
    try:
        yield
    finally:
        authentication.secrets = before  # type: ignore[attr-defined]


class SimulatedWire:
    """See `muloco.outer.protocol.wire.Wire`: one rank of a worker, with torchft's manager and gloo as modelled here.

    Args:
        network: on which.
        ranks: of the worker.
        rank: which of them it is.
        name: of the worker at the lighthouse; it ends with its number.
        key: of the run.
        min_replica_size: fewest members with which torchft's manager agrees that a round ends well.
        quorum_seconds: longest wait for a quorum.
        exchange_seconds: longest wait for the bytes of a swap, and for the members of a group.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        network: Network,
        ranks: Ranks,
        rank: int,
        name: str,
        key: Key,
        *,
        min_replica_size: int,
        quorum_seconds: float,
        exchange_seconds: float,
    ):
        self._network, self._ranks, self._rank, self._key = network, ranks, rank, key
        self._process = process = ranks.processes[rank]
        self._least, self._quorum_seconds, self._exchange_seconds = min_replica_size, quorum_seconds, exchange_seconds
        self._address = f"{process.machine}:{20000 + ranks.introduce(name)}"
        self._rendezvous: StoreClient | None = None
        self.end: End | None = None
        self.met: Met
        """The last quorum."""
        self.forged = 0
        """Number of pieces received from other members that were forged."""
        self._number = -1
        self._prefix = ""
        self._group = ""
        self._whole = False
        self._commit_failures = 0
        self._participants = 0
        self._failure: str | None = None
        self._no_quorum: TimeoutError | None = None

    @property
    def connected(self) -> bool:
        return self.end is not None and self.end.error != CUT_OFF

    def meet(self, choosing: Group) -> str | None:
        if self._no_quorum is not None:  # torchft's manager repeats what the last quorum has raised
            raise self._no_quorum
        self._failure = None
        asked = Member(self._ranks.replica, self._ranks.store, self._commit_failures)
        try:
            met = self._ranks.quorum(self._rank, asked, self._quorum_seconds)
        except TimeoutError as error:
            self._no_quorum = error
            raise
        self._participants, self.met = len(met.members), met
        if met.number != self._number:
            self._number = met.number
            try:
                self._configure(met, choosing)
            except Violation:
                raise
            except Exception as error:
                self._failure = str(error)
        return self._failure

    def _configure(self, met: Met, choosing: Group) -> None:
        members = sorted(met.members, key=lambda member: member.replica)
        rank = next(r for r, member in enumerate(members) if member.replica == self._ranks.replica)
        group_rank = FIRST_GROUP_RANK + self._rank
        store = members[group_rank % len(members)].store
        machines = [of_rank(member.store.partition(":")[0], self._rank) for member in members]
        workers = [int(member.replica.partition(":")[0][-3:]) for member in members]
        quorum = Quorum(rank=rank, workers=workers, host=store.partition(":")[0])
        self.abort()
        if choosing.stays_out(quorum):
            return
        try:
            self._rendezvous = StoreClient(self._network, self._process, store)
        except RuntimeError as error:
            raise ConnectionError(f"the worker at {store} has gone: {error}") from error
        self._prefix = f"torchft/{met.number}/{group_rank}/"
        self._group, group = choosing.join(quorum, self.shared(met))
        self._whole = len(group) == len(members)
        end = End(
            self._network,
            self._process,
            f"{store}/{self._prefix}{self._group}",
            group.index(rank),
            [machines[member] for member in group],
        )
        end.connect(self._exchange_seconds)
        self.end = end

    def shared(self, met: Met) -> Rendezvous:
        """Returns the entries of a quorum in the store that its members share."""
        assert self._rendezvous is not None
        return _Prefixed(self._rendezvous, self._prefix)

    def swap(
        self, received: torch.Tensor, sizes: list[int], sent: list[torch.Tensor], meanwhile: Callable[[], None]
    ) -> None:
        end = self.end
        if end is None or not self.connected:
            raise ConnectionError(CUT_OFF)
        try:
            arrived = end.swap([part.numpy().data for part in sent], sizes, self._exchange_seconds, meanwhile)
        except RuntimeError as error:
            raise ConnectionError(str(error)) from error
        for place, data in zip(received.split(sizes), arrived, strict=True):
            if len(data) != len(place):
                raise Violation(
                    f"{self._ranks.replica} waits for {len(place)} bytes of a member that sends {len(data)}"
                )
            self.forged += isinstance(data, ForgedBytes)
            if len(data):
                place.copy_(torch.frombuffer(data, dtype=torch.uint8))

    def finish(self, failure: str | None) -> str | None:
        self._network.world.point("finishes a round")
        self._failure = failure or self._failure
        holds = self._failure is None and self._participants >= self._least
        if all(self._ranks.gather("the end of a round", self._rank, holds, self._exchange_seconds)):
            self._commit_failures = 0
            return None
        self._commit_failures += 1
        return self._failure or "on another rank of this worker"

    def abort(self) -> None:
        self._network.world.here()
        if self.end is not None:
            self.end.close(CUT_OFF)
            self.end = None

    def forget_rendezvous(self) -> None:
        own = self._prefix if self._whole else f"{self._prefix}{self._group}/"
        assert self._rendezvous is not None
        with contextlib.suppress(RuntimeError):
            self._rendezvous.delete(own)

    def entries(self) -> int:
        """Returns how many entries of the group are in the store, if all members of the quorum are in the group."""
        if self._rendezvous is None or not self._whole:
            return 0
        return self._rendezvous.count(self._prefix)

    def serve(self, answer: Callable[[str], bytes | None]) -> str:
        def handle(message: tuple[str, bytes, bytes]) -> tuple[int, int, bytes, bytes]:
            path, nonce, tag = message
            if not is_authentic(self._key, self._address, path, nonce, tag):
                return 403, 0, b"", b""
            if isinstance(message, ForgedParts):
                raise Violation(f"{self._ranks.replica} answers a forged request for {path}")
            answered = Answer(self._key, path, nonce, answer(path))
            return answered.status, answered.length, answered.tag, b"".join(answered.pieces())

        self._network.serve(self._process, self._address, handle)
        return self._address

    def request(self, address: str, path: str, seconds: float) -> bytes | None:
        asked = Request(self._key, address, path)
        answered = self._network.ask(self._process, address, (path, asked.nonce, asked.tag), seconds)
        status, length, tag, body = answered
        place = 0

        def read(size: int) -> bytes:
            nonlocal place
            piece = body[place : place + size]
            place += len(piece)
            return piece

        answer = asked.read(status, length, tag, read)
        if isinstance(answered, ForgedParts):
            raise Violation(f"{self._ranks.replica} believes a forged answer to its request for {path}")
        return answer

    def reaches(self, address: str) -> bool:
        return self._network.reaches(self._process, address.partition(":")[0])

    def of_ranks(self, numbers: Sequence[int]) -> list[list[int]]:
        seconds = self._quorum_seconds + 2 * self._exchange_seconds  # see `muloco.training.outer`
        try:
            given = self._ranks.gather("numbers of ranks", self._rank, list(numbers), seconds)
        except TimeoutError as error:
            raise RuntimeError(str(error)) from error
        if len(set(map(len, given))) > 1:
            raise Violation(f"the ranks of a worker give differently many numbers: {given}")
        return given

    def close(self) -> None:
        self._network.world.point("closes")
        self.abort()
        if self._rank == 0:
            self._ranks.close()
        self._network.servers.pop(self._address, None)


class _Prefixed:
    """See `muloco.outer.protocol.wire.Rendezvous`."""

    def __init__(self, store: StoreClient, prefix: str):
        self._store, self._prefix = store, prefix
        self.read: dict[str, bytes] = {}
        """The entries that have been read."""

    def set(self, key: str, value: str) -> None:
        self._store.set(self._prefix + key, value)

    def collect(self, keys: Sequence[str], seconds: float) -> list[bytes]:
        read = self._store.collect([self._prefix + key for key in keys], seconds)
        self.read |= zip(keys, read, strict=True)
        return read
