"""One end of a plain TCP transfer, to measure a link; see `shaped_link.Network.measured_megabits`.

python benchmarks/link_probe.py receive ADDRESS            prints its port and, after the transfer, bytes and seconds
python benchmarks/link_probe.py send ADDRESS PORT BYTES
"""

import json
import socket
import sys
import time

BLOCK = 64 * 1024


def receive(address: str) -> None:
    with socket.create_server((address, 0)) as server:
        print(server.getsockname()[1], flush=True)
        connection, _ = server.accept()
        with connection:
            first = len(connection.recv(BLOCK))
            started = time.perf_counter()
            count = 0
            while block := connection.recv(BLOCK):
                count += len(block)
            seconds = time.perf_counter() - started
    assert first
    print(json.dumps({"bytes": count, "seconds": seconds}), flush=True)


def send(address: str, port: int, size: int) -> None:
    with socket.create_connection((address, port)) as connection:
        block = bytes(BLOCK)
        for _ in range(-(-size // BLOCK)):
            connection.sendall(block)


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(sys.argv[2])
    else:
        send(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
