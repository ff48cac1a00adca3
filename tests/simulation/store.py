"""Key-value stores that processes serve, as torch's TCPStore."""

from collections.abc import Callable, Sequence
from typing import Any

from tests.simulation.network import Network, machine_of
from tests.simulation.world import Process

KEEP_ALIVE_SECONDS = 60.0
"""Silence after which the system gives up a connection on which an answer is awaited."""


class Store:
    """A key-value store that a process serves.

    Args:
        network: on which.
        process: that serves it.
        address: `machine:port`.
    """

    def __init__(self, network: Network, process: Process, address: str):
        self.process, self.address = process, address
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
        self._network, self._client, self._machine = network, client, machine_of(address)
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

        def put(key: str, data: bytes) -> None:
            store.values[key] = data
            for tell in list(store.changed):
                tell()

        def write() -> None:
            self._network.forger.entry(store.address, key, data, put)

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

    def count(self, prefix: str) -> int:
        """Returns how many keys begin with a prefix, as nobody in the simulated world can know; none if it has gone."""
        return sum(key.startswith(prefix) for key in self._store.values) if self._store.process.alive else 0

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
