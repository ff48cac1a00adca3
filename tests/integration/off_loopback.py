"""A run whose addresses are not loopback, and a stranger who reaches all of them.

    unshare --net --map-root-user python -m tests.integration.off_loopback FOLDER

The network namespace of its own keeps it from everyone else. Prints what the stranger was told, by port, and fails
where it was more than a greeting or an error.
"""

import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from muloco.launch.lighthouse import Lighthouse, start_lighthouse
from muloco.launch.placement.spec import HostSpec

from ..listening import descendants, is_loopback, listening
from .by_hand import SECRET, Workers
from .waiting import wait_until

HOST = "10.99.0.1"
INTERFACE = "own"
PATIENCE_SECONDS = 3.0
RUN = "run"


def kill_request() -> bytes:
    """A call of torchft's ManagerService.Kill by gRPC, as bytes of HTTP/2."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    def header(name: bytes, value: bytes) -> bytes:
        return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value  # a literal without an index

    headers = b"".join(
        header(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/torchft.ManagerService/Kill"),
            (b":authority", b"stranger"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        )
    )
    message = b"\x0a\x03bye"
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0, b"")
        + frame(1, 4, 1, headers)
        + frame(0, 1, 1, b"\0" + struct.pack(">I", len(message)) + message)
    )


STORE_ANSWER = struct.pack("<I", 7)
STORE_REQUEST = b"\x00" + struct.pack("<I", 0x3C85F7CE) + b"\x0d" + STORE_ANSWER
"""The greeting of a client of torch's store, and a ping."""
WORDS = {
    "nothing": b"",
    "garbage": bytes(range(256)) * 16,
    "status": b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n",
    "kill at the lighthouse": f"POST /replica/{RUN}_000/kill HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode(),
    "kill at the manager": kill_request(),
}


def answer(port: int, words: bytes, host: str = HOST) -> bytes:
    """Returns the answer, up to the end of the connection or of `PATIENCE_SECONDS`."""
    found, end = b"", time.monotonic() + PATIENCE_SECONDS
    try:
        with socket.create_connection((host, port), timeout=PATIENCE_SECONDS) as connection:
            connection.sendall(words)
            while time.monotonic() < end and (part := connection.recv(2**16)):
                found += part
    except OSError:
        pass
    return found


def store_answers(port: int, host: str = HOST) -> bool:
    """Whether a store of torch answers: it is greeted, and asked to send a number back."""
    return answer(port, STORE_REQUEST, host) == STORE_ANSWER


def main(folder: Path) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "link", "add", INTERFACE, "type", "veth", "peer", "name", "other"], check=True)
    subprocess.run(["ip", "address", "add", f"{HOST}/24", "dev", INTERFACE], check=True)
    for interface in (INTERFACE, "other"):
        subprocess.run(["ip", "link", "set", interface, "up"], check=True)
    start = partial(
        start_lighthouse,
        workers=2,
        log=folder / "lighthouse.log",
        secret=SECRET,
        host=HostSpec(address=HOST),
        heartbeat_timeout=2.0,
        join_timeout=5.0,
    )
    lighthouse = Lighthouse(lambda port: start(port=port), secret=SECRET)
    child, begun = lighthouse.child, time.monotonic()
    workers = Workers(folder, lighthouse.address, INTERFACE)
    try:
        processes = [workers.start(worker, fault_tolerance__host=HOST) for worker in (0, 1)]
        workers.wait_for_sync({0, 1})
        wait_until(lambda: lighthouse._probe._heard > begun, "the supervisor does not hear from it", folder)
        own = {"lighthouse": child._process.pid, "worker 0": processes[0].pid, "worker 1": processes[1].pid}
        found = {name: listening(descendants(process)) for name, process in own.items()}
        outside = {port: name for name, places in found.items() for host, port in places if not is_loopback(host)}
        assert {host for places in found.values() for host, _ in places if not is_loopback(host)} == {HOST}
        assert sorted(outside.values()).count("lighthouse") == 1 and len(outside) >= 7, found
        tries = [(port, what) for port in outside for what in WORDS]
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda attempt: answer(attempt[0], WORDS[attempt[1]]), tries))
            stores = dict(zip(outside, pool.map(store_answers, outside), strict=True))
        for (port, what), told in zip(tries, answers, strict=True):
            sys.stdout.write(f"{outside[port]} at {port}, {what}: {told!r}\n")
            assert f"{RUN}_00".encode() not in told and b"200 OK" not in told
            assert len(told) < 64 or b" 403 Forbidden" in told, told
        sys.stdout.write(f"stores that let a stranger in: {[port for port, opens in stores.items() if opens]}\n")
        assert not any(stores.values())
        inside = [port for host, port in found["worker 1"] if is_loopback(host)]
        with ThreadPoolExecutor(32) as pool:
            assert any(pool.map(lambda port: store_answers(port, "127.0.0.1"), inside)), "the request is the right one"
        workers.wait_for_sync({0, 1})
        assert [process.poll() for process in processes] == [None, None]

        # What a gate keeps out is real: on loopback, which this test has for itself, one request ends a worker.
        with ThreadPoolExecutor(32) as pool:
            pool.map(lambda port: answer(port, WORDS["kill at the manager"], "127.0.0.1"), inside)
        wait_until(lambda: processes[1].poll() is not None, "the request to kill does not work", folder)
    finally:
        workers.end()
        lighthouse.close()
        child.end(grace_seconds=5)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
