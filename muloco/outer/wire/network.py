"""Connections between the processes of a run: direct on loopback, otherwise through gates and tunnels. This module
needs only Python's standard library."""

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

from muloco.outer.wire import gate

CHECK_SECONDS = 10.0
"""Time limit of a connection that only checks whether something listens."""
_SIGNALS = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2")
"""Signals that may reach a worker's whole process group, or all processes of a SLURM step. The process that carries
the worker's connections ignores them, as it has to end after the worker."""


def is_loopback(host: str) -> bool:
    """Whether a name or address is one of the loopback interface; a name is not looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def split(address: str) -> tuple[str, int]:
    """Returns host and port of `host:port`, where the host may be an IPv6 address in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class Network:
    """Makes ports of this process reachable for the others, and the ports of others reachable for it. All addresses are
    `host:port`.

    Args:
        host: name or address under which others reach this process.
        secret: of the run.
        on_loss: called, from a thread, if the process that carries the connections ends before `close`. Ports that were
            announced can then no longer be reached; for addresses that are reached later, a new process is started.
    """

    def __init__(self, host: str, secret: bytes, on_loss: Callable[[], None] = lambda: None):
        self.host = host
        self._secret = secret
        self._on_loss = on_loss
        self._closed = False
        self._lock = threading.Lock()
        self._carrier: subprocess.Popen | None = None
        self._tunnels: dict[str, str] = {}

    def announce(self, port: int) -> str:
        """Returns an address at which others can reach a loopback port of this process.

        Raises:
            OSError: no gate can be opened.
        """
        if is_loopback(self.host):
            return f"{self.host}:{port}"
        return f"{self.host}:{self._order(f'gate {self.host} {port}')}"

    def reach(self, address: str) -> str:
        """Returns an address at which this process can reach an address that another one has announced.

        Raises:
            OSError: no tunnel can be opened.
        """
        host, port = split(address)
        if is_loopback(host):
            return address
        if self._carrier is not None and self._carrier.poll() is not None:
            self._carrier = None
            self._tunnels.clear()
        if address not in self._tunnels:
            self._tunnels[address] = f"{gate.LOOPBACK}:{self._order(f'tunnel {host} {port}')}"
        return self._tunnels[address]

    def leave(self, address: str) -> None:
        """Opens no more connections to an address until `reach` is called for it again."""
        if self._tunnels.pop(address, None) is not None:
            self._order("close {} {}".format(*split(address)))

    def check(self, address: str) -> None:
        """Connects to an address once, as a test.

        Raises:
            OSError: nothing listens at the address, or it does not let this process in.
        """
        host, port = split(address)
        if is_loopback(host):
            socket.create_connection((host, port), timeout=CHECK_SECONDS).close()
        else:
            self._order(f"check {host} {port}")

    def close(self) -> None:
        """Ends all connections."""
        self._closed = True
        if self._carrier is not None:
            self._carrier.kill()
            self._carrier.wait()
            for pipe in (self._carrier.stdin, self._carrier.stdout):
                assert pipe is not None
                pipe.close()

    def _order(self, command: str) -> str:
        """Has the process that carries the connections execute a command, and returns its answer.

        Raises:
            OSError: that process cannot execute it, or has ended.
        """
        with self._lock:
            if self._carrier is None:
                self._carrier = _start_carrier()
                self._tell(self._secret.hex())
                watch = threading.Thread(target=self._watch, args=(self._carrier,), name="network", daemon=True)
                watch.start()
            self._tell(command)
            assert self._carrier.stdout is not None
            answer = self._carrier.stdout.readline().strip()
        if not answer:
            raise ConnectionError("the process that carries the connections of this worker has ended")
        if answer.startswith("failed: "):
            raise ConnectionError(answer.removeprefix("failed: "))
        return answer

    def _watch(self, carrier: subprocess.Popen) -> None:
        carrier.wait()
        if not self._closed:
            self._on_loss()

    def _tell(self, line: str) -> None:
        assert self._carrier is not None and self._carrier.stdin is not None
        self._carrier.stdin.write(f"{line}\n")
        self._carrier.stdin.flush()


def _start_carrier() -> subprocess.Popen:
    """Starts the program of `muloco.outer.wire.gate`."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {getattr(signal, name) for name in _SIGNALS})
    try:
        return subprocess.Popen(
            [sys.executable, "-I", gate.__file__, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
