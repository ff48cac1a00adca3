"""Somebody without the secret who speaks to a lighthouse alone, in a process of its own: `siege.py` starts it.

python besieger.py LIGHTHOUSE SECONDS KIND...

late      gives signs of life, and never comes to a sync
store     comes to every sync, with a store that accepts connections and never answers, as the first of all members
ahead     comes to every sync, at a step for torchft that is far ahead of all others
gone      comes to every sync with addresses at which nobody listens
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
