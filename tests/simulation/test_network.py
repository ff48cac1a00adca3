"""What the simulated network carries, and how a cut, a half-open connection, and the end of a process look."""

from collections.abc import Callable

import numpy
import pytest

from tests.simulation.members import End
from tests.simulation.network import Network
from tests.simulation.store import Store, StoreClient
from tests.simulation.world import Process, World


def _machines(count: int) -> tuple[World, Network, list[Process]]:
    world = World(3)
    return world, Network(world), [Process(world, f"p{number}", f"m{number}") for number in range(count)]


def _swap(end: End, numbers: list[int], seconds: float = 5.0) -> list[bytes]:
    sent = [numpy.array([number], numpy.uint8).data if number >= 0 else b"" for number in numbers]
    return [bytes(part) for part in end.swap(sent, [int(number >= 0) for number in numbers], seconds, lambda: None)]


def _pair(network: Network, processes: list[Process], act: Callable[[int, End], object]) -> list[list[object]]:
    """What each of two connected members sees, and when."""
    world, machines, seen = network.world, [process.machine for process in processes], [[], []]

    def member(rank: int) -> None:
        end = End(network, processes[rank], "group", rank, machines)
        try:
            end.connect(5.0)
            seen[rank].append(act(rank, end))
        except RuntimeError as error:
            seen[rank].append(str(error))
        seen[rank].append(round(world.now, 1))

    for rank in range(2):
        world.spawn(processes[rank], lambda rank=rank: member(rank))
    world.run()
    return seen


def test_members_swap_bytes_in_order() -> None:
    _, network, processes = _machines(2)

    def act(rank: int, end: End) -> list[bytes]:
        return [_swap(end, [-1, 10 + n] if rank == 0 else [20 + n, -1])[1 - rank] for n in range(3)]

    seen = _pair(network, processes, act)
    assert [who[0] for who in seen] == [[b"\x14", b"\x15", b"\x16"], [b"\x0a", b"\x0b", b"\x0c"]]


def test_a_cut_in_one_direction_is_noticed_by_a_timeout_alone() -> None:
    world, network, processes = _machines(2)

    def act(rank: int, end: End) -> list[bytes]:
        if rank == 0:
            network.cut("m0", "m1", 100.0)
        return _swap(end, [-1, 1] if rank == 0 else [2, -1])

    seen = _pair(network, processes, act)
    # member 0 cannot say that it waits, so that nothing comes, and nothing of its own arrives
    assert seen[0] == ["timed out after 5 s", 5.0] and seen[1] == ["timed out after 5 s", 5.0]


def test_what_is_sent_during_a_short_cut_arrives_afterwards() -> None:
    world, network, processes = _machines(2)

    def act(rank: int, end: End) -> list[bytes]:
        if rank == 0:
            network.cut("m0", "m1", 2.0)
        return _swap(end, [-1, 1] if rank == 0 else [2, -1])

    seen = _pair(network, processes, act)
    assert [who[1] for who in seen] == [2.0, 2.0] and seen[1][0] == [b"\x01", b""]


@pytest.mark.parametrize("half_open", [False, True])
def test_the_end_of_a_process_breaks_its_connections(half_open: bool) -> None:
    world, network, processes = _machines(2)

    def act(rank: int, end: End) -> object:
        if rank == 1:
            world.sleep(1.0)
            if half_open:
                network.cut("m1", "m0", 100.0)
            processes[1].kill()
            world.sleep(1.0)
        return _swap(end, [-1, 1])

    seen = _pair(network, processes, act)
    told = ["timed out after 5 s", 5.0] if half_open else ["the connection was closed by the other member", 1.0]
    assert seen == [told, []]


def test_damaged_bytes_arrive_and_lost_ones_are_sent_again() -> None:
    world, network, processes = _machines(2)
    network.mishaps["m0"] = ["damaged", "lost"]

    def act(rank: int, end: End) -> object:
        return [_swap(end, [-1, 1] if rank == 0 else [2, -1])[1 - rank] for _ in range(2)]

    seen = _pair(network, processes, act)
    assert seen[1][0] == [b"\x41", b"\x01"] and seen[0][0] == [b"\x02", b"\x02"]
    assert seen[1][1] > 0.1


def _ask(
    act: Callable[[World, Network, list[Process]], None], seconds: float = 3.0
) -> tuple[list[object], list[object]]:
    """What becomes of a request, and what the server has seen."""
    world, network, processes = _machines(2)
    asked, answered = [], []

    def answer(message: object) -> object:
        asked.append(message)
        world.sleep(0.5)
        return f"answer to {message}"

    def client() -> None:
        try:
            answered.append(network.ask(processes[0], "m1:1", "question", seconds))
        except OSError as error:
            answered.append(type(error).__name__)
        answered.append(round(world.now, 1))

    network.serve(processes[1], "m1:1", answer)
    act(world, network, processes)
    world.spawn(processes[0], client)
    world.run()
    return answered, asked


@pytest.mark.parametrize(
    ("act", "answered", "asked"),
    [
        (lambda w, n, p: None, ["answer to question", 0.5], ["question"]),
        (lambda w, n, p: p[1].kill(), ["ConnectionRefusedError", 0.0], []),
        (lambda w, n, p: w.at(0.2, p[1].kill), ["ConnectionResetError", 0.2], ["question"]),
        (lambda w, n, p: p[1].pause(), ["TimeoutError", 3.0], []),
        (lambda w, n, p: n.cut("m0", "m1", 100.0), ["TimeoutError", 3.0], []),
        (lambda w, n, p: n.cut("m1", "m0", 100.0), ["TimeoutError", 3.0], ["question"]),
        (lambda w, n, p: n.mishaps.update(m0=["lost"]), ["TimeoutError", 3.0], []),
        (lambda w, n, p: n.mishaps.update(m0=["unanswered"]), ["ConnectionResetError", 0.5], ["question"]),
        (lambda w, n, p: n.mishaps.update(m0=["doubled"]), ["answer to question", 0.5], ["question", "question"]),
    ],
)
def test_a_request_and_what_can_become_of_it(act, answered, asked) -> None:
    assert _ask(act) == (answered, asked)


def test_a_store_is_written_read_and_gone_with_its_process() -> None:
    world, network, processes = _machines(3)
    seen = []
    Store(network, processes[0], "m0:1")

    def writer() -> None:
        store = StoreClient(network, processes[1], "m0:1")
        world.sleep(1.0)
        store.set("a", "x")
        world.sleep(1.0)
        store.set("b", "y")

    def reader() -> None:
        store = StoreClient(network, processes[2], "m0:1")
        seen.append((store.collect(["a"], 5.0), round(world.now, 1)))
        seen.append((store.collect(["a", "c"], 3.0), round(world.now, 1)))
        store.delete("a")
        seen.append((store.collect(["a", "b"], 0.5), round(world.now, 1)))
        world.at(1.0, processes[0].kill)
        try:
            store.collect(["d"], 5.0)
        except RuntimeError as error:
            seen.append((str(error), round(world.now, 1)))

    world.spawn(processes[1], writer)
    world.spawn(processes[2], reader)
    world.run()
    assert seen == [([b"x"], 1.0), ([b"x", b""], 4.0), ([b"", b"y"], 4.5), ("the store has gone", 5.5)]
