"""The network between the machines of a simulated world: latencies, requests, and what goes wrong with them.

Everything travels over TCP, as it does in reality: bytes are neither lost nor doubled within a connection. A direction
between two machines that is cut is silent, and what is sent meanwhile arrives once it is whole again, so only timeouts
notice a cut. A connection breaks if a process closes it or ends, and its other end hears of it unless that direction is
cut (the connection is half-open then). A request has a connection of its own, which may be lost at any moment, and may
overtake others.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.simulation.costs import Costs
from tests.simulation.forger import Forger
from tests.simulation.world import Process, World

if TYPE_CHECKING:
    from tests.simulation.members import End
    from tests.simulation.store import Store

FASTEST = 0.0002
"""Least latency of a message in seconds."""
PROBE_SECONDS = 3.0
TRIED_SECONDS = 3.0
"""A request may still arrive this long after its sender has given it up."""


class Network:
    """The connections between the machines of a world.

    Args:
        world: in which.
        costs: of messages and bytes.
    """

    def __init__(self, world: World, costs: Costs = Costs()):  # noqa: B008
        self.world, self._costs = world, costs
        self.servers: dict[str, tuple[Process, Callable[[Any], Any]]] = {}
        """By address, the process that serves there, and what answers a message."""
        self.stores: dict[str, Store] = {}
        """The stores by address."""
        self.mishaps: dict[str, list[str]] = {}
        """What will happen to the next messages of a machine: `lost`, `late`, `doubled`, `unanswered`, `damaged`, or
        see `forger.HOWS`."""
        self.forger = Forger(world)
        self.on_change: list[Callable[[], None]] = []
        """Called before a direction is cut or whole again."""
        self.groups: dict[str, dict[int, End]] = {}
        """The ends of each group, by its name and the member's rank."""
        self.knocks: dict[tuple[str, int], list[Callable[[], None]]] = {}
        """Attempts to connect with a member of a group that is not there yet."""
        self._cuts: dict[tuple[str, str], float] = {}
        self._last: dict[Any, float] = {}
        self._free: dict[str, float] = {}
        """For each machine, when all bytes have left that it has sent."""

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

    def isolate(self, machine: str, seconds: float) -> None:
        """Cuts all directions from and to a machine for some seconds."""
        others = {store.process.machine for store in self.stores.values()} - {machine}
        for other in (*sorted(others), "lighthouse"):
            self.cut(machine, other, seconds)
            self.cut(other, machine, seconds)

    def silent(self, source: str, target: str) -> float:
        """Returns for how many more seconds nothing gets from one machine to another."""
        return max(0.0, self._cuts.get((source, target), 0.0) - self.world.now)

    def delay(self, source: str, target: str) -> float:
        """Returns after how many seconds a message arrives that is sent now."""
        random = self.world.random.random()
        typical = self._costs.message_seconds
        latency = FASTEST + (typical * random if random < 0.99 else 50 * typical * (random - 0.99) * 100)
        return latency + self.silent(source, target)

    def leaving(self, machine: str, size: int) -> float:
        """Returns after how many seconds so many bytes have left a machine that sends them now."""
        if self._costs.bytes_per_second == math.inf:
            return 0.0
        self._free[machine] = max(self._free.get(machine, 0.0), self.world.now) + size / self._costs.bytes_per_second
        return self._free[machine] - self.world.now

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
        task, machine, answers = world.here(), machine_of(address), []
        kind = self.mishap(source.machine)
        path, message = message[0], self.forger.request(source.machine, address, message)

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
                said = self.forger.answer(source.machine, path, said)
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


def machine_of(address: str) -> str:
    """Returns the machine of an address `machine:port`."""
    return address.partition(":")[0]
