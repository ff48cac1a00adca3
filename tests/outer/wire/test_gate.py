"""A gate and its tunnel: who knows the secret reaches what is behind it, and nobody else does."""

import asyncio
import hashlib
import hmac
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from muloco.outer.wire import gate as gate_module
from muloco.outer.wire.gate import HELLO, Gate, open_tunnel, through_gate
from muloco.outer.wire.network import Network, split

from ...patience import PATIENCE

SECRET = b"a secret of a test"
OTHER = b"another secret, as long"
HOST = "127.0.0.2"
"""Stands for an address that others reach; for the code under test `is_loopback` says otherwise."""


class Echo:
    """A server on loopback that returns in capitals what it is sent, once that has ended."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self._accepted = self._asked = 0
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def connections(self) -> int:
        """Connections so far. Since they are accepted in order, all are counted once one that is made now is served."""
        self._asked += 1
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
        return self._accepted - self._asked

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self._accepted += 1
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            data = b""
            while part := connection.recv(2**16):
                data += part
            connection.sendall(data.upper())


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.socket.close()


@pytest.fixture
def off_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muloco.outer.wire.network.is_loopback", lambda host: host == "127.0.0.1")


def said(address: tuple[str, int], data: bytes) -> bytes:
    """Returns the answer, up to the end of the connection."""
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            return b""
        answer = b""
        try:
            while part := connection.recv(2**16):
                answer += part
        except ConnectionResetError:
            pass
        return answer


def with_gate(target: int, work: Callable, secret: bytes = SECRET):
    """Runs `work(port of a gate to the target)`, a coroutine or a function that blocks."""

    async def main():
        gate = Gate(target, secret)
        async with await gate.open("127.0.0.1"):
            if asyncio.iscoroutinefunction(work):
                return await asyncio.wait_for(work(gate.port), PATIENCE)
            return await asyncio.to_thread(work, gate.port)

    return asyncio.run(main())


def test_bytes_pass_in_both_directions_and_their_end(echo: Echo) -> None:
    data = os.urandom(300_000).hex().encode()

    async def work(port: int) -> bytes:
        tunnel = await open_tunnel("127.0.0.1", port, SECRET)
        return await asyncio.to_thread(said, tunnel.sockets[0].getsockname(), data)

    assert with_gate(echo.port, work) == data.upper()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET /status HTTP/1.1\r\n\r\n" + bytes(200),
        b"POST /replica/run_000/kill HTTP/1.1\r\nContent-Length: 0\r\n\r\n" + bytes(200),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(200),
        random.Random(0).randbytes(4000),
        bytes(31),
    ],
    ids=["nothing", "GET", "POST", "HTTP/2", "random bytes", "zeros"],
)
def test_a_stranger_gets_a_greeting_and_no_further(echo: Echo, data: bytes) -> None:
    answer = with_gate(echo.port, lambda port: said(("127.0.0.1", port), data))
    assert answer[: len(HELLO)] in (HELLO, b"") and len(answer) <= len(HELLO) + 32
    assert echo.connections == 0


def test_a_wrong_secret_does_not_open(echo: Echo) -> None:
    async def work(port: int) -> None:
        with pytest.raises(ConnectionError, match="does not open: its secret is another one"):
            await through_gate("127.0.0.1", port, OTHER)

    with_gate(echo.port, work)
    assert echo.connections == 0


def test_the_tags_are_those_of_the_protocol(echo: Echo) -> None:
    """An independent client computes the tags by the definition of HMAC."""

    def tag(who: bytes, both: bytes) -> bytes:
        return hmac.new(SECRET, b"muloco gate 1\n" + who + b"\n" + both, hashlib.sha256).digest()

    def work(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            both = connection.recv(14 + 32, socket.MSG_WAITALL)[14:] + bytes(32)
            connection.sendall(bytes(32) + tag(b"tunnel", both))
            assert connection.recv(32, socket.MSG_WAITALL) == tag(b"gate", both)
            connection.sendall(b"hello")
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(5, socket.MSG_WAITALL)

    assert with_gate(echo.port, work) == b"HELLO"


def test_what_was_said_once_opens_nothing_again(echo: Echo) -> None:
    """Neither a recorded handshake nor a tag that is sent back."""

    def work(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            both = connection.recv(46, socket.MSG_WAITALL)[14:] + bytes(32)
            recorded = bytes(32) + hmac.digest(SECRET, HELLO + b"tunnel\n" + both, "sha256")
            connection.sendall(recorded)
            answer = connection.recv(32, socket.MSG_WAITALL)
            assert len(answer) == 32
        for attempt in (recorded, bytes(32) + answer):
            assert len(said(("127.0.0.1", port), attempt)) <= 46

    with_gate(echo.port, work)
    assert echo.connections == 1


def test_a_tunnel_believes_no_stranger_at_the_gates_address() -> None:
    """One that opens to everybody: it sends the tunnel its own words back."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def pretend() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(HELLO + bytes(32))
                told = connection.recv(64, socket.MSG_WAITALL)
                connection.sendall(told[32:])
                connection.recv(1)

        threading.Thread(target=pretend, daemon=True).start()
        with pytest.raises(ConnectionError, match="another secret"):
            asyncio.run(through_gate("127.0.0.1", server.getsockname()[1], SECRET))


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(99), b""])
def test_what_is_no_gate_is_told(greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].sendall(greeting), daemon=True).start()
        with pytest.raises(ConnectionError, match="not a gate of muloco|does not open"):
            asyncio.run(through_gate("127.0.0.1", server.getsockname()[1], SECRET))


def test_who_says_nothing_is_sent_away(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "HANDSHAKE_SECONDS", 0.2)

    def work(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            connection.recv(46, socket.MSG_WAITALL)
            try:
                return connection.recv(1)
            except ConnectionResetError:
                return b""

    assert with_gate(echo.port, work) == b""


def test_many_who_say_nothing_keep_nobody_out(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "WAITING", 4)

    async def work(port: int) -> None:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        _, writer = await through_gate("127.0.0.1", port, SECRET)
        writer.close()
        for _, other in silent:
            other.close()

    with_gate(echo.port, work)
    assert echo.connections == 1


def test_a_gate_to_nothing_does_not_open() -> None:
    async def work(port: int) -> None:
        with pytest.raises(ConnectionError, match="nothing listens behind it"):
            await through_gate("127.0.0.1", port, SECRET)

    with socket.create_server(("127.0.0.1", 0)) as gone:
        target = gone.getsockname()[1]
    with_gate(target, work)


def test_a_network_on_loopback_takes_addresses_as_they_are(echo: Echo) -> None:
    network = Network("127.0.0.1", SECRET)
    assert network.announce(echo.port) == f"127.0.0.1:{echo.port}" == network.reach(f"127.0.0.1:{echo.port}")
    network.check(f"127.0.0.1:{echo.port}")
    assert network._carrier is None
    network.close()


def test_networks_elsewhere_meet_by_gates_and_tunnels(echo: Echo, off_loopback: None) -> None:
    one, other, stranger = Network(HOST, SECRET), Network(HOST, SECRET), Network(HOST, OTHER)
    try:
        address = one.announce(echo.port)
        assert split(address)[0] == HOST and split(address)[1] != echo.port
        other.check(address)
        assert said(split(other.reach(address)), b"hello") == b"HELLO"
        assert other.reach(address) == other.reach(address)
        heard = echo.connections
        with pytest.raises(ConnectionError, match="another one"):
            stranger.check(address)
        assert said(split(stranger.reach(address)), b"hello") == b""
        assert echo.connections == heard
        tunnel = other.reach(address)
        other.leave(address)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(split(tunnel))
        one.close()
        with pytest.raises(OSError):
            other.check(address)
    finally:
        for network in (one, other, stranger):
            network.close()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_carrier_ends_with_its_process_and_heeds_no_signal_to_all(end: signal.Signals) -> None:
    program = f"""
import os, signal, sys, time
from muloco.outer.wire import network
network.is_loopback = lambda host: host == "127.0.0.1"
own = network.Network("{HOST}", b"{SECRET.decode()}")
print(own.announce(9).rsplit(":")[1], own._carrier.pid, flush=True)
if not os.fork():  # it keeps the pipes of the carrier open
    time.sleep(600)
time.sleep(600)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        port, carrier = map(int, process.stdout.readline().split())
        os.kill(carrier, signal.SIGTERM)
        os.kill(carrier, signal.SIGINT)
        socket.create_connection((HOST, port)).close()
        process.send_signal(end)
        process.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        with pytest.raises(ConnectionRefusedError):
            while time.monotonic() < deadline:
                socket.create_connection((HOST, port)).close()
                time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_loss_of_the_carrier_is_told_and_reaching_goes_on(echo: Echo, off_loopback: None) -> None:
    lost = threading.Event()
    gate, network = Network(HOST, SECRET), Network(HOST, SECRET, on_loss=lost.set)
    try:
        address = gate.announce(echo.port)
        network.reach(address)
        assert network._carrier is not None
        network._carrier.kill()
        assert lost.wait(PATIENCE)
        assert said(split(network.reach(address)), b"hello") == b"HELLO"
    finally:
        gate.close()
        network.close()
