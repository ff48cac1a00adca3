"""Attacks on the ports of a live run, by a process on the same machine without the run's secret."""

import http.client
import json
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from attacking.http2 import grpc
from attacking.live import LiveRun, environment
from attacking.ports import Port, listing
from attacking.registry import Seen, attack

SECONDS = 1.0
GOES_ON = "all workers go on to sync, and their anchors are equal"


def send(port: Port, data: bytes, *, seconds: float = SECONDS, read: int = 4096) -> bytes:
    """Sends bytes to a port and returns the first answer, if any."""
    try:
        with socket.create_connection((host_of(port), port.number), timeout=seconds) as connection:
            connection.sendall(data)
            return connection.recv(read)
    except OSError:
        return b""


def _everywhere(ports: Sequence[Port], messages: Sequence[bytes]) -> list[tuple[Port, bytes]]:
    """Sends each message to each port, many at a time; returns what each port answered."""
    pairs = [(port, message) for message in messages for port in ports]
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda pair: send(*pair, seconds=0.5, read=65536), pairs)
        return [(port, answer) for (port, _), answer in zip(pairs, answers, strict=True)]


def host_of(port: Port) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(port.address, port.address)


def garbage(rng: random.Random) -> Sequence[bytes]:
    return (
        rng.randbytes(1024),
        bytes(65536),
        b"\xff" * 16 + (2**62).to_bytes(8, "little") + rng.randbytes(64),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(508),  # the hello of TLS
        b"EHLO there\r\nSELECT 1;\r\n\0\0\0\n" * 20,
    )


@attack("ports", must=GOES_ON, scene="crew", short=True)
def garbage_to_every_port(run: LiveRun, rng: random.Random) -> Seen:
    """Sends five kinds of garbage to every port on which a process of the run listens."""
    ports, kinds = run.ports(), garbage(rng)
    _everywhere(ports, kinds)
    return Seen(tries=len(ports) * len(kinds), note=f"{len(ports)} ports")


@attack("ports", must=GOES_ON, scene="crew", short=True)
def odd_http(run: LiveRun, rng: random.Random) -> Seen:
    """Sends eight malformed HTTP requests to every port, with path traversal, absurd lengths and unknown methods."""
    requests = (
        b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999999999\r\n\r\nx",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 2**20 + b"\r\n\r\n",
        b"BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n",
        b"GET /state/%00%0a%ff HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" + rng.randbytes(64),
    )
    ports = run.ports()
    answers = _everywhere(ports, requests)
    wrong = [f"{port.owner} ({port}) served /etc/passwd" for port, answer in answers if b"root:" in answer]
    return Seen(tries=len(ports) * len(requests), wrong=wrong)


@attack("ports", must=GOES_ON, scene="crew", short=True)
def slowloris(run: LiveRun, rng: random.Random) -> Seen:
    """Holds 50 half-sent requests open at every port for five seconds, adding a byte to each every second."""
    ports = run.ports()
    held = _held(ports, 50, b"GET /state/x HTTP/1.1\r\nX: ")
    since = time.time()
    while time.time() < since + 5:
        for connection in held:
            _drip(connection)
        time.sleep(1)
    within = len(run.whole_syncs(since))
    for connection in held:
        connection.close()
    note = f"{len(held)} connections at {len(ports)} ports; {within} syncs meanwhile"
    return Seen(tries=len(ports), wrong=[] if within else ["no sync while they were open"], note=note)


@attack("ports", must=GOES_ON, scene="crew", short=True)
def flood_of_connections(run: LiveRun, rng: random.Random) -> Seen:
    """Opens 200 connections to every port, and keeps them open through two syncs."""
    ports = run.ports()
    since = time.time()
    held = _held(ports, 200, b"")
    whole = run.goes_on(since=since, seconds=60, syncs=2)
    for connection in held:
        connection.close()
    wrong = [] if whole else ["no sync while they were open"]
    return Seen(tries=len(ports), wrong=wrong, note=f"{len(held)} connections")


@attack(
    "ports",
    must="every port is on loopback; no connection from the machine's other addresses",
    scene="crew",
    short=True,
)
def from_another_address(run: LiveRun, rng: random.Random) -> Seen:
    """Connects to every port by the addresses of this machine that others can reach."""
    ports = run.ports()
    wrong = [f"{port.owner} listens on {port}" for port in ports if not port.on_loopback]
    for host in _own_addresses():
        for port in ports:
            try:
                socket.create_connection((host, port.number), timeout=0.3).close()
                wrong.append(f"{port.owner} answers at {host}:{port.number}")
            except OSError:
                continue
    return Seen(tries=len(ports), refused="connection refused", wrong=wrong, note=listing(ports))


@attack("ports", must="killed workers come back; " + GOES_ON, scene="crew")
def grpc_kill(run: LiveRun, rng: random.Random) -> Seen:
    """Sends torchft's Kill request over gRPC to every port, as the lighthouse's dashboard does."""
    before = run.by_number()
    _everywhere(run.ports(), [grpc("/torchft.ManagerService/Kill", b"\x0a\x02hi")])
    time.sleep(1)
    return _killed(run, before)


@attack("ports", must="killed workers come back; " + GOES_ON, scene="crew")
def dashboard_kill(run: LiveRun, rng: random.Random) -> Seen:
    """Reads the ids of the workers from the lighthouse's dashboard, and asks it to kill one of them."""
    before = run.by_number()
    lighthouse = next((port for port in run.ports() if port.owner == "lighthouse"), None)
    if lighthouse is None:
        return Seen(wrong=["no lighthouse listens"])
    status, page = _http(lighthouse, "GET", "/status")
    ids = re.findall(r"/replica/([^/\"]+)/kill", page) or re.findall(rf"({run.name}_\d+:[\w-]+)", page)
    for replica in ids[:1]:
        _http(lighthouse, "POST", f"/replica/{replica}/kill")
    time.sleep(1)
    seen = _killed(run, before)
    seen.note += f"; /status says {status} and names {len(ids)} workers"
    return seen


STORE = """
import sys
from datetime import timedelta
import torch.distributed as dist

for port in sys.argv[1:]:
    try:
        store = dist.TCPStore("127.0.0.1", int(port), is_master=False, wait_for_workers=False,
                              timeout=timedelta(seconds=2))
        keys = store.list_keys()
        values = [store.get(key) for key in keys]
        deleted = [store.delete_key(key) for key in keys]
        store.set("stranger", "was here")
        print(port, len(keys), "keys", sum(deleted), "deleted", flush=True)
    except Exception as error:
        print(port, "no:", str(error).splitlines()[0][:60], flush=True)
"""


@attack("ports", must=GOES_ON, scene="crew")
def keys_of_the_stores(run: LiveRun, rng: random.Random) -> Seen:
    """Reads and deletes all keys of each worker's TCPStore, from a process of the same machine."""
    ports = [port for port in run.ports() if port.owner.startswith("worker")]
    numbers = [str(port.number) for port in ports]
    command = ["timeout", "40", sys.executable, "-c", STORE, *numbers]  # what is no store makes it wait
    told = subprocess.run(command, capture_output=True, text=True, env=environment())
    found = [line for line in told.stdout.splitlines() if " keys " in line]
    return Seen(tries=len(ports), note="; ".join(found) or "no store answered")


@attack(
    "ports",
    must="the server gives an empty answer (403) to a request without a valid tag",
    scene="crew",
    short=True,
)
def requests_without_a_tag(run: LiveRun, rng: random.Random) -> Seen:
    """Asks each worker's server for a round, a state and a part, without a tag and with a wrong one."""
    wrong, tries, statuses = [], 0, set()
    names = _round_names(run)
    for port in (port for port in run.ports() if port.owner.startswith("worker")):
        if not send(port, b"GET / HTTP/1.0\r\n\r\n", seconds=0.5).startswith(b"HTTP/1."):
            continue  # not a server for HTTP
        for kind in ("round", "state", "part"):
            for headers in ({}, {"Muloco-Nonce": "0" * 32, "Muloco-Tag": "0" * 64, "Authorization": "0" * 64}):
                for name in names:
                    status, body = _http(port, "GET", f"/{kind}/{name}", headers=headers)
                    tries += 1
                    statuses.add(status)
                    if status == 200:
                        wrong.append(f"{port.owner}: /{kind}/{name} was answered with {body[:40]!r}")
    if not tries:
        return Seen(wrong=["no server for HTTP was found"])
    refused = f"HTTP status {sorted(statuses)}, without content"
    return Seen(tries=tries, wrong=wrong[:6], refused=refused)


def _round_names(run: LiveRun) -> list[str]:
    return ["00000000-1", "x", "../state"]


def _held(ports: Sequence[Port], count: int, data: bytes) -> list[socket.socket]:
    """Opens connections to each port, all ports at once, and leaves them open."""
    with ThreadPoolExecutor(max(1, len(ports))) as pool:
        return [one for held in pool.map(lambda port: _held_at(port, count, data), ports) for one in held]


def _held_at(port: Port, count: int, data: bytes) -> list[socket.socket]:
    held: list[socket.socket] = []
    for _ in range(count):
        try:
            connection = socket.create_connection((host_of(port), port.number), timeout=0.5)
            connection.sendall(data)
        except OSError:
            break  # the port accepts no more
        held.append(connection)
    return held


def _drip(connection: socket.socket) -> None:
    try:
        connection.sendall(b"a")
    except OSError:
        return


def _killed(run: LiveRun, before: dict[int, int]) -> Seen:
    now = run.by_number()
    gone = [worker for worker, process in before.items() if now.get(worker) != process]
    said = f"workers {gone} were killed by a process of this machine" if gone else "nobody was killed"
    return Seen(note=said)


def _http(port: Port, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and body; status 0: no answer."""
    connection = http.client.HTTPConnection(host_of(port), port.number, timeout=2)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(65536).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def _own_addresses() -> list[str]:
    """IPv4 addresses of this machine off loopback."""
    told = subprocess.run(["ip", "-json", "-4", "address"], capture_output=True, text=True)
    if told.returncode:
        return [address for address in {socket.gethostbyname(socket.gethostname())} if not address.startswith("127.")]
    found = (one["local"] for link in json.loads(told.stdout) for one in link.get("addr_info", []))
    return [address for address in found if not address.startswith("127.")]
