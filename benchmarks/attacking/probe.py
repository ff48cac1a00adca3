"""Sends HTTP, a gRPC request and garbage to ports (HOST:PORT each) without the secret, and prints the answers as JSON.
It needs only Python's standard library."""

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from attacking.http2 import grpc

REQUESTS = {
    "status": b"GET /status HTTP/1.0\r\n\r\n",
    "state": b"GET /state/x HTTP/1.0\r\n\r\n",
    "round": b"GET /round/x HTTP/1.0\r\n\r\n",
    "kill": grpc("/torchft.ManagerService/Kill", b"\x0a\x02hi"),
    "garbage": bytes(range(256)) * 16,
}


def answer(where: str, request: bytes) -> str:
    host, _, port = where.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1) as connection:
            connection.sendall(request)
            return connection.recv(4096).decode("latin-1")
    except OSError:
        return ""


if __name__ == "__main__":
    pairs = [(port, name) for port in sys.argv[1:] for name in REQUESTS]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda pair: answer(pair[0], REQUESTS[pair[1]]), pairs))
    found: dict[str, dict[str, str]] = {port: {} for port in sys.argv[1:]}
    for (port, name), said in zip(pairs, answers, strict=True):
        found[port][name] = said
    print(json.dumps(found))
