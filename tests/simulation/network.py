"""The network between the machines of a simulated world: connections, requests, stores, and what goes wrong with them.

Everything travels over TCP, as it does in reality: bytes are neither lost nor doubled within a connection. A direction
between two machines that is cut is silent, and what is sent meanwhile arrives once it is whole again, so only timeouts
notice a cut. A connection breaks if a process closes it or ends, and its other end hears of it unless that direction is
cut (the connection is half-open then). Requests have a connection of their own, which may be lost at any moment, and may
overtake each other.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from tests.simulation.world import Process, Task, World

FASTEST, TYPICAL = 0.0002, 0.002
"""Latency of a message in seconds: at least, and most of the time at most."""
PROBE_SECONDS = 3.0
TRIED_SECONDS = 3.0
"""A request may still arrive this long after its sender has given it up."""
KEEP_ALIVE_SECONDS = 60.0
"""Silence after which the system gives up a connection on which an answer is awaited."""


class Network:
    """The connections between the machines of a world."""

    def __init__(self, world: World):
        self.world = world
        self.servers: dict[str, tuple[Process, Callable[[Any], Any]]] = {}
        """By address, the process that serves there, and what answers a message."""
        self.stores: dict[str, Store] = {}
        """The stores by address."""
        self.mishaps: dict[str, list[str]] = {}
        """What will happen to the next messages of a machine: `lost`, `late`, `doubled`, `unanswered` or `damaged`."""
        self.on_change: list[Callable[[], None]] = []
        """Called before a direction is cut or whole again."""
        self.groups: dict[str, dict[int, End]] = {}
        """The ends of each group, by its name and the member's rank."""
        self.knocks: dict[tuple[str, int], list[Callable[[], None]]] = {}
        """Attempts to connect with a member of a group that is not there yet."""
        self._cuts: dict[tuple[str, str], float] = {}
        self._last: dict[Any, float] = {}

    def cut(self, source: str, target: str, seconds: float) -> None:
        """Cuts one direction between two machines for some seconds."""
        for tell in self.on_change:
            tell()
        end = max(self._cuts.get((source, target), 0.0), self.world.now + seconds)
        self._cuts[source, target] = end
        if end < math.inf:
            self.world.at(seconds, lambda: [tell() for tell in self.on_change])

    def reset(self, machine: str, other: str | None) -> None:
        """Breaks the connections of the groups of a machine with another one, or with all. Both ends hear of it."""
        for ends in self.groups.values():
            for end in list(ends.values()):
                if end.process.machine == machine and end.process.alive and not end.error:
                    end.break_connections(other)

    def silent(self, source: str, target: str) -> float:
        """Returns for how many more seconds nothing gets from one machine to another."""
        return max(0.0, self._cuts.get((source, target), 0.0) - self.world.now)

    def delay(self, source: str, target: str) -> float:
        """Returns after how many seconds a message arrives that is sent now."""
        random = self.world.random.random()
        latency = FASTEST + (TYPICAL * random if random < 0.99 else 50 * TYPICAL * (random - 0.99) * 100)
        return latency + self.silent(source, target)

    def send(
        self,
        source: Process,
        target: str,
        what: Callable[[], object],
        process: Process | None = None,
        way: Any = None,
        late: float = 0.0,
    ) -> None:
        """Sends a message, upon whose arrival `what` is called.

        Args:
            source: the sender.
            target: a machine.
            what: must not wait.
            process: if given, `what` is called only if it is alive, and not while it is paused.
            way: messages of equal ways arrive in the order in which they were sent; None: in any order.
            late: further seconds that it takes, because it is lost and sent again.
        """
        delay = self.delay(source.machine, target) + late
        if way is not None:
            arrival = max(self._last.get(way, 0.0), self.world.now + delay)
            self._last[way] = arrival
            delay = arrival - self.world.now
        if delay < math.inf:
            self.world.at(delay, what, process)

    def mishap(self, machine: str) -> str:
        """Returns what happens to this message of a machine."""
        kinds = self.mishaps.get(machine)
        return kinds.pop(0) if kinds else ""

    def leaves(self, process: Process, again: Callable[[], None]) -> bool:
        """Says that bytes leave a process. Returns False if they do not: it has ended, or is paused and they leave
        later."""
        if process.alive:
            self.world.on_point(process, "sends")
        if process.paused:
            self.world.at(0.0, again, process)
        return process.alive and not process.paused

    def reaches(self, source: Process, target: str) -> bool:
        """Whether a machine answers within some seconds."""
        self.world.point("probes")
        there = self.delay(source.machine, target) + self.delay(target, source.machine)
        self.world.wait(min(there, PROBE_SECONDS))
        return there < PROBE_SECONDS

    def serve(self, process: Process, address: str, answer: Callable[[Any], Any]) -> None:
        """Answers the messages to an address, each in a task of its own."""
        self.servers[address] = (process, answer)

    def ask(self, source: Process, address: str, message: Any, seconds: float) -> Any:
        """Sends a message to an address and returns the answer.

        Raises:
            OSError: there is none in time.
        """
        world = self.world
        world.point("asks")
        task, machine, answers = world.here(), _machine(address), []
        kind = self.mishap(source.machine)

        def arrives(answer: Any) -> None:
            answers.append(answer)
            world.wake(task)

        def reaches_machine() -> None:
            server, answer = self.servers.get(address, (None, None))
            if server is None or not server.alive:
                back = self.delay(machine, source.machine)
                if back < math.inf:
                    world.at(back, lambda: arrives(ConnectionRefusedError(f"nothing listens at {address}")), source)
                return

            def handle() -> None:
                said = answer(message)
                world.point("answers")
                if kind == "unanswered":
                    said = ConnectionResetError(f"the connection to {address} has broken")
                server.on_end.remove(breaks)
                self.send(server, source.machine, lambda: arrives(said), source)

            def breaks() -> None:
                broken = ConnectionResetError(f"the process at {address} has ended")
                self.send(server, source.machine, lambda: arrives(broken), source)

            server.on_end.append(breaks)
            world.at(0.0, lambda: world.spawn(server, handle, "answer"), server)

        if kind != "lost":
            there = self.delay(source.machine, machine) + (world.random.uniform(0.2, 3.0) if kind == "late" else 0.0)
            for _ in range(2 if kind == "doubled" else 1):
                if there < seconds + TRIED_SECONDS:
                    world.at(there, reaches_machine)
                there += world.random.uniform(0.0, 2.0)
        deadline = world.now + seconds
        while not answers and world.now < deadline:
            world.wait(deadline - world.now)
        if not answers:
            raise TimeoutError(f"no answer from {address} within {seconds:g} s")
        if isinstance(answers[0], OSError):
            raise answers[0]
        return answers[0]


def _machine(address: str) -> str:
    return address.partition(":")[0]


class Store:
    """A key-value store that a process serves.

    Args:
        network: on which.
        process: that serves it.
        address: `machine:port`.
    """

    def __init__(self, network: Network, process: Process, address: str):
        self.process = process
        self.values: dict[str, bytes] = {}
        self.changed: list[Callable[[], None]] = []
        network.stores[address] = self


class StoreClient:
    """A connection of a process to a store.

    Args:
        network: on which.
        client: the process.
        address: of the store.

    Raises:
        RuntimeError: there is no store.
    """

    def __init__(self, network: Network, client: Process, address: str):
        self._network, self._client, self._machine = network, client, _machine(address)
        store = network.stores.get(address)
        if store is None:
            raise RuntimeError(f"no store at {address}")
        self._store = store
        self._ask(lambda: True, KEEP_ALIVE_SECONDS)

    def set(self, key: str, value: str | bytes) -> None:
        """Writes an entry; does not wait until it is there."""
        self._network.world.point("writes to the store")
        data = value.encode() if isinstance(value, str) else value
        store, way = self._store, (self._client, self._store)

        def write() -> None:
            store.values[key] = data
            for tell in list(store.changed):
                tell()

        if self._client.machine != store.process.machine or store.process.alive:
            self._network.send(self._client, self._machine, write, store.process, way)

    def collect(self, keys: Sequence[str], seconds: float) -> list[bytes]:
        """Returns the values of keys; empty for those that are not there within so many seconds.

        Raises:
            RuntimeError: the store does not answer.
        """
        store = self._store
        self._ask(lambda: all(key in store.values for key in keys), seconds)
        return self._ask(lambda: [store.values.get(key, b"") for key in keys], KEEP_ALIVE_SECONDS) or []

    def delete(self, prefix: str) -> None:
        """Deletes the entries whose keys begin with a prefix.

        Raises:
            RuntimeError: the store does not answer.
        """
        store = self._store

        def forget() -> bool:
            for key in [key for key in store.values if key.startswith(prefix)]:
                del store.values[key]
            return True

        self._ask(forget, KEEP_ALIVE_SECONDS)

    def _ask(self, query: Callable[[], Any], seconds: float) -> Any:
        """Returns the result of a query once it is true; None if it is not within so many seconds.

        Raises:
            RuntimeError: the store has gone, or is silent.
        """
        world, network, client, store = self._network.world, self._network, self._client, self._store
        world.point("asks the store")
        task, answers = world.here(), []

        def arrives(answer: Any) -> None:
            answers.append(answer)
            world.wake(task)

        def breaks() -> None:
            network.send(store.process, client.machine, lambda: arrives(RuntimeError("the store has gone")), client)

        def look() -> None:
            if (answer := query()) and look in store.changed:
                store.changed.remove(look)
                network.send(store.process, client.machine, lambda: arrives(answer), client, (store, client))

        def begin() -> None:
            if store.process.alive:
                store.process.on_end.append(breaks)
                store.changed.append(look)
                world.at(0.0, look, store.process)
            else:
                breaks()

        network.send(client, self._machine, begin, None, (client, store))
        deadline = world.now + seconds
        while not answers and world.now < deadline:
            world.wait(deadline - world.now)
        # torch's client now cancels its question, and waits for the answer to this without a time limit
        if not answers and (network.silent(client.machine, self._machine) or store.process.paused):
            deadline = world.now + KEEP_ALIVE_SECONDS
            while not answers and world.now < deadline and store.process.paused:
                world.wait(min(0.5, deadline - world.now))
        if look in store.changed:
            store.changed.remove(look)
        if breaks in store.process.on_end:
            store.process.on_end.remove(breaks)
        if answers and isinstance(answers[0], RuntimeError):
            raise answers[0]
        if not answers and not store.process.alive:
            raise RuntimeError("the store has gone")
        if not answers and seconds == KEEP_ALIVE_SECONDS:
            raise RuntimeError("the store is silent")
        return answers[0] if answers else None


class End:
    """One member's end of the connections between the members of a group, as gloo makes them: bytes go to a member once
    that member waits for them.

    Args:
        network: on which.
        process: of the member.
        name: of the group.
        rank: of the member.
        machines: the machine of each member, by rank.
    """

    def __init__(self, network: Network, process: Process, name: str, rank: int, machines: Sequence[str]):
        self._network, self.process, self._rank, self._machines = network, process, rank, machines
        self.others = [other for other in range(len(machines)) if other != rank]
        self.error = ""
        """Why this end is closed."""
        self._lost: dict[int, str] = {}
        self._acknowledged: set[int] = set()
        self._offered: dict[int, deque[Any]] = {other: deque() for other in self.others}
        self._wanted = dict.fromkeys(self.others, 0)  # by the other member, as far as this one has heard
        self.arrived: dict[int, deque[bytearray]] = {other: deque() for other in self.others}
        self._waiting: Task | None = None
        self._name = name
        self._ends = network.groups.setdefault(name, {})
        process.on_end.append(lambda: self.close("the process has ended"))

    def connect(self, seconds: float) -> None:
        """Connects with all other members.

        Raises:
            RuntimeError: a member does not come in time.
        """
        world = self._network.world
        self._ends[self._rank] = self
        for knock in self._network.knocks.pop((self._name, self._rank), []):
            world.at(0.0, knock, self.process)
        for other in self.others:
            self._knock(other)
        deadline = world.now + seconds
        while len(self._acknowledged) < len(self.others) and not self.error and not self._lost:
            if world.now >= deadline:
                self.close("timed out")
                raise RuntimeError(f"the members did not connect within {seconds:g} s")
            self._wait(deadline)
        if self.error or self._lost:
            reason = self.error or next(iter(self._lost.values()))
            self.close(reason)
            raise RuntimeError(reason)

    def _knock(self, other: int) -> None:
        network = self._network

        def acknowledged() -> None:
            self._acknowledged.add(other)
            self._wake()

        def knock() -> None:
            end = self._ends[other]
            if end.error or not end.process.alive:
                network.send(end.process, self.process.machine, lambda: self._lose(other, "refused"), self.process)
            else:
                network.send(end.process, self.process.machine, acknowledged, self.process)

        def arrives() -> None:
            end = self._ends.get(other)
            if end is None:
                network.knocks.setdefault((self._name, other), []).append(knock)
            else:
                self._network.world.at(0.0, knock, end.process if end.process.alive else None)

        network.send(self.process, self._machines[other], arrives)

    def swap(self, sent: Sequence[Any], sizes: Sequence[int], seconds: float, meanwhile: Callable[[], None]) -> list[Any]:
        """Sends to each member, and returns what came from each: of length `sizes[r]` from member r.

        Raises:
            RuntimeError: a member is gone or too slow, or this end is closed.
        """
        world = self._network.world
        world.point("swaps")
        for other in self.others:
            if sizes[other]:
                self._insist_on(other)
                self._want(other)
        for other in self.others:
            if len(sent[other]):
                self._insist_on(other)
                self._offered[other].append(sent[other])
                self._match(other)
        meanwhile()
        deadline = world.now + seconds
        while not self.error:
            missing = [r for r in self.others if (sizes[r] and not self.arrived[r]) or self._offered[r]]
            if not missing:
                return [self.arrived[r].popleft() if r in self.arrived and sizes[r] else b"" for r in range(len(sizes))]
            if broken := [self._lost[other] for other in missing if other in self._lost]:
                raise RuntimeError(broken[0])
            if world.now >= deadline:
                self.close("timed out")
                raise RuntimeError(f"timed out after {seconds:g} s")
            self._wait(deadline)
        raise RuntimeError(self.error)

    def _insist_on(self, other: int) -> None:
        """As gloo, which posts nothing more once a connection is known to be broken."""
        if other in self._lost and not self.arrived[other]:
            raise RuntimeError(self._lost[other])

    def close(self, reason: str) -> None:
        """Closes the connections. The other ends hear of it."""
        if self.error:
            return
        self.error = reason
        self._wake()
        for other in self.others:
            end = self._ends.get(other)
            if end is not None:
                told = "the connection was closed by the other member"
                way = self, other
                self._network.send(
                    self.process, end.process.machine, lambda end=end: end._lose(self._rank, told), end.process, way
                )

    def break_connections(self, machine: str | None) -> None:
        """The connections of this member with a machine, or with all, break, and both ends hear of it."""
        for other in self.others:
            if (end := self._ends.get(other)) is not None and machine in (None, end.process.machine):
                self._lose(other, "connection reset by peer")
                end._lose(self._rank, "connection reset by peer")

    def _lose(self, other: int, reason: str) -> None:
        self._lost.setdefault(other, reason)
        self._wake()

    def _want(self, other: int) -> None:
        """Tells a member that this one waits for its bytes."""
        end = self._ends[other]

        def wanted() -> None:
            end._wanted[self._rank] += 1
            end._match(self._rank)

        self._network.send(self.process, end.process.machine, wanted, end.process, (self, other))

    def _match(self, other: int) -> None:
        """Sends bytes to a member that waits for them."""
        while self._wanted[other] and self._offered[other] and not self.error:
            if not self._network.leaves(self.process, lambda: self._match(other)):
                return
            if self.error or other in self._lost:
                return
            self._wanted[other] -= 1
            data, end = bytearray(self._offered[other].popleft()), self._ends[other]
            kind = self._network.mishap(self.process.machine)
            again = kind in ("lost", "late")
            late = self._network.world.random.uniform(0.2, 3.0) if again else 0.0

            if kind == "damaged":
                data[self._network.world.random.randrange(len(data))] ^= 1

            def arrives(end: "End" = end, data: bytearray = data) -> None:
                end.arrived[self._rank].append(data)
                end._wake()

            way = self, other
            self._network.send(self.process, end.process.machine, arrives, end.process, way, late)
            self._wake()

    def _wake(self) -> None:
        if self._waiting is not None:
            self._network.world.wake(self._waiting)

    def _wait(self, deadline: float) -> None:
        world = self._network.world
        self._waiting = world.here()
        try:
            world.wait(deadline - world.now)
        finally:
            self._waiting = None
