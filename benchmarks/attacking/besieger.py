"""A process without the secret that talks only to a lighthouse; `siege.py` starts it.

python besieger.py LIGHTHOUSE SECONDS KIND...

late      sends signs of life, but joins no sync
store     joins every sync as the first member, with a store that accepts connections but never answers
ahead     joins every sync at a torchft step that is far ahead of all others
gone      joins every sync with addresses at which nothing listens
"""

import contextlib
import os
import socket
import sys
import threading
import time
from datetime import timedelta

from torchft.coordination import LighthouseClient

PATIENCE = timedelta(seconds=5)


def heartbeats(lighthouse: str, name: str) -> None:
    client = LighthouseClient(lighthouse, PATIENCE)
    while True:
        with contextlib.suppress(RuntimeError, TimeoutError):
            client.heartbeat(name, PATIENCE)
        time.sleep(0.2)


def comes(lighthouse: str, name: str, store: str, step: int) -> None:
    client = LighthouseClient(lighthouse, PATIENCE)
    while True:
        with contextlib.suppress(RuntimeError, TimeoutError):
            client.quorum(name, PATIENCE, address="http://127.0.0.1:9", store_address=store, step=step, world_size=1)
        time.sleep(0.05)


def main() -> None:
    lighthouse, seconds, *kinds = sys.argv[1:]
    silent = socket.create_server(("127.0.0.1", 0), backlog=128)
    stores = {"store": f"127.0.0.1:{silent.getsockname()[1]}", "ahead": "127.0.0.1:9", "gone": "127.0.0.1:9"}
    for kind in kinds:
        name = f"!{kind}_000:{os.getpid()}"  # sorted before all others
        threading.Thread(target=heartbeats, args=(lighthouse, name), daemon=True).start()
        if kind in stores:
            step = 10**6 if kind == "ahead" else 0
            threading.Thread(target=comes, args=(lighthouse, name, stores[kind], step), daemon=True).start()
    time.sleep(float(seconds))
    os._exit(0)


if __name__ == "__main__":
    main()
