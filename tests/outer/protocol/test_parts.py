"""Parts of shared work that workers send to each other outside the rounds."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from muloco.outer.in_process import InProcessGroup
from muloco.outer.protocol.transport import KEPT_PARTS
from muloco.outer.wire.peers import HELD_SECONDS, PeerServer, ask, fetch, fetch_part

from ..over_torchft import KEY, connect, in_threads
from ..toy import SECONDS
from ..workers import run_workers


def test_a_part_that_comes_later_is_waited_for() -> None:
    server = PeerServer("127.0.0.1", KEY)
    threading.Timer(1.5 * HELD_SECONDS, server.publish, ("late", b"it is there")).start()
    assert fetch_part(server.address, "late", key=KEY, patience=SECONDS) == b"it is there"
    server.close()


def test_only_the_newest_parts_are_kept() -> None:
    server = PeerServer("127.0.0.1", KEY)
    for number in range(KEPT_PARTS + 1):
        server.publish(f"{number}", b"%d" % number)
    for number in range(1, KEPT_PARTS + 1):
        assert fetch_part(server.address, f"{number}", key=KEY, patience=0) == b"%d" % number
    with pytest.raises(OSError, match="has nothing at /part/0"):
        fetch_part(server.address, "0", key=KEY, patience=0)
    server.close()


@contextlib.contextmanager
def stranger(answer: bytes | None) -> Iterator[str]:
    """A server that gives this answer to every request; with None it accepts connections and is silent."""
    with socket.create_server(("127.0.0.1", 0)) as listening, contextlib.ExitStack() as stack:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection = stack.enter_context(listening.accept()[0])
                    if answer is not None:
                        connection.recv(10_000)
                        connection.sendall(answer)
                        connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


GET: dict[str, Callable[[str], object]] = {
    "part": lambda address: fetch_part(address, "name", key=KEY, patience=0),
    "state": lambda address: fetch(address, "name", key=KEY, patience=0, seconds=1),
}


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\nshort", b"nonsense\r\n\r\n", None]
)
@pytest.mark.parametrize("what", GET)
def test_an_answer_that_is_not_whole_is_as_none(what: str, answer: bytes | None) -> None:
    """A worker that fails while it answers must not end the worker that asks."""
    with stranger(answer) as address:
        with pytest.raises(OSError):
            GET[what](address)
        assert ask(address, "name", key=KEY, seconds=1) is None


NAMES = ("first", "second", "third")


def test_all_workers_of_a_process_get_all_parts() -> None:
    group = InProcessGroup(3)

    def work(worker: int) -> list[dict[int, bytes]]:
        transport, found = group.transport(worker), []
        for name in NAMES:
            transport.publish(name, f"{name} of {worker}".encode())
            found.append(transport.collect(name, [0, 1, 2], 0.0))
        return found

    for worker, found in enumerate(run_workers(group, work)):
        others = [other for other in range(3) if other != worker]
        assert found == [{o: f"{name} of {o}".encode() for o in others} for name in NAMES]


def test_parts_of_workers_that_have_left_or_never_come_are_left_out() -> None:
    group = InProcessGroup(3)

    def work(worker: int) -> dict[int, bytes]:
        transport = group.transport(worker)
        if worker == 1:
            return {}  # it leaves without a word
        transport.publish("name", b"%d" % worker)
        return transport.collect("name", [0, 1, 2], 0.0)

    assert run_workers(group, work) == [{2: b"2"}, {}, {0: b"0"}]


def test_parts_over_a_lighthouse(lighthouse) -> None:
    """All workers get all parts. Then one worker is gone, and another one publishes nothing more."""
    address, together = lighthouse(3), threading.Barrier(3, timeout=SECONDS)

    def work(worker: int) -> tuple[dict[int, bytes], ...]:
        transport = connect(worker, address, least=3)
        try:
            before = transport.collect("name", range(3), SECONDS)
            transport.publish("name", b"%d" % worker)
            assert transport.open(1).vote(True)
            found = transport.collect("name", range(3), SECONDS)
            together.wait()
            if worker == 1:
                transport.close()
            together.wait()
            late = transport.collect("another name", range(3), 0.0) if worker == 0 else {}
            together.wait()
            return before, found, late
        finally:
            if worker != 1:
                transport.close()

    parts = {worker: b"%d" % worker for worker in range(3)}
    others = [{other: part for other, part in parts.items() if other != worker} for worker in range(3)]
    assert in_threads(3, work) == [({}, others[worker], {}) for worker in range(3)]
