"""The connections between the members of a group, as gloo makes them."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tests.simulation.network import Network
from tests.simulation.world import Process, Task


class End:
    """One member's end of the connections of a group. Bytes go to a member once that member waits for them.

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
        self._sizes: Sequence[int] = ()
        self._open: set[int] = set()
        """The members whose bytes have not arrived, or that have not taken theirs, in the swap under way."""
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

    def swap(
        self, sent: Sequence[Any], sizes: Sequence[int], seconds: float, meanwhile: Callable[[], None]
    ) -> list[Any]:
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
        deadline, self._sizes = world.now + seconds, sizes
        self._open = {other for other in self.others if not self._is_done(other)}
        while not self.error:
            if not self._open:
                return [self.arrived[r].popleft() if r in self.arrived and sizes[r] else b"" for r in range(len(sizes))]
            if broken := self._open & self._lost.keys():
                raise RuntimeError(self._lost[min(broken)])
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
                told = partial(end._lose, self._rank, "the connection was closed by the other member")
                self._network.send(self.process, end.process.machine, told, end.process, (self, other))

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
            late = self._network.leaving(self.process.machine, len(data))
            late += self._network.world.random.uniform(0.2, 3.0) if again else 0.0

            data = self._network.forger.message(kind, (self._name, self._rank, other), data)

            def arrives(end: "End" = end, data: bytearray = data) -> None:
                end.arrived[self._rank].append(data)
                end._settle(self._rank)

            way = self, other
            self._network.send(self.process, end.process.machine, arrives, end.process, way, late)
            self._settle(other)

    def _is_done(self, other: int) -> bool:
        return not self._offered[other] and (not self._sizes[other] or bool(self.arrived[other]))

    def _settle(self, other: int) -> None:
        """Goes on once nobody is missing in the swap under way."""
        if other in self._open and self._is_done(other):
            self._open.remove(other)
            if not self._open:
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
