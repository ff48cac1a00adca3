"""A fake worker, with or without the secret of the run; `strangers.py` starts it.

    python stranger.py ORDER    a JSON object: lighthouse, run, worker, secret (null: none), tells (the message that
                                it sends instead of a header), extra (bytes by which its messages are too long),
                                rounds, seconds

For each round it prints a JSON object with what it has learned from the others.
"""

import inspect
import json
import logging
import os
import sys
from datetime import timedelta
from typing import Any

OTHER_BYTES = {
    "garbage": b"\x00\xff\x13garbage" * 8,
    "an empty message": b"",
    "a list": b"[1, 2, 3]",
    "deep nesting": b"[" * 100_000,
    "a header of 2^50 bytes": b"",
}


def connect(order: dict[str, Any]) -> Any:
    from torch.distributed import TCPStore

    from muloco.outer.wire.peer_group import GlooGroup
    from muloco.outer.wire.torchft import TorchftTransport

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    patience = timedelta(seconds=order["seconds"])
    arguments = {
        "run": order["run"],
        "worker": order["worker"],
        "min_replica_size": 1,
        "lighthouse": order["lighthouse"],
        "rank": 0,
        "ranks": 1,
        "store": ("127.0.0.1", store.port),
        "host": "127.0.0.1",
        "group": GlooGroup(timedelta(seconds=5)),
        "quorum_timeout": patience,
        "exchange_timeout": timedelta(seconds=5),
        "secret": (order["secret"] or "nobody told me the secret").encode(),
    }
    known = inspect.signature(TorchftTransport.__init__).parameters
    transport = TorchftTransport(**{name: value for name, value in arguments.items() if name in known})
    transport.own_store = store
    return transport


def changed(honest: bytes, order: dict[str, Any]) -> bytes:
    """Returns the header of an honest worker with changed values."""
    header = json.loads(honest)
    for name, value in order["tells"].items():
        old = header.get(name, 0)
        header[name] = old + value["add"] if isinstance(value, dict) and "add" in value else value
    return json.dumps(header).encode()


def send_more(extra: int) -> None:
    """Makes every message of this process longer than its receiver expects."""
    import torch

    from muloco.outer.wire.peer_group import GlooGroup

    post = GlooGroup.post

    def longer(self: Any, received: Any, sizes: Any, sent: Any, *more: Any) -> None:
        padding = torch.zeros(extra, dtype=torch.uint8)
        post(self, received, sizes, [torch.cat([part, padding]) if part.numel() else part for part in sent], *more)

    GlooGroup.post = longer  # type: ignore[method-assign]


def play(order: dict[str, Any]) -> None:
    from muloco.outer.protocol.exchange import gather_bytes
    from muloco.outer.protocol.transport import TransportError

    if order.get("extra"):
        send_more(order["extra"])
    transport = connect(order)
    honest: bytes | None = None
    for number in range(order["rounds"]):
        told: dict[str, Any] = {"round": number, "members": 0, "read": 0, "committed": False}
        try:
            this_round = transport.open(0)
            told["members"] = this_round.size
            kind = order["tells"]
            if isinstance(kind, str):
                message = OTHER_BYTES[kind]
            else:
                message = b"hello" if honest is None else changed(honest, order)
            others = [data for rank, data in enumerate(gather_bytes(this_round, message)) if rank != this_round.rank]
            told["read"] = sum(data.startswith(b"{") for data in others)
            honest = next((data for data in others if data.startswith(b"{")), honest)
            told["committed"] = this_round.vote(True)
        except TransportError as error:
            told["error"] = str(error)[:200]
        except Exception as error:
            told["error"] = f"{type(error).__name__}: {error}"[:200]
            print(json.dumps(told), flush=True)
            break
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    play(json.loads(sys.argv[1]))
    os._exit(0)  # torchft's threads would keep it for a while
