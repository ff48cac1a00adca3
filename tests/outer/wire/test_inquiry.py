"""Questions to peers cost a bounded time, whoever of them is there."""

import threading
import time

from muloco.outer.protocol.authentication import Key
from muloco.outer.wire.inquiry import ask_all
from muloco.outer.wire.peers import PeerServer, inquire

KEY = Key(b"a secret of 24 characters")


def test_who_answers_in_time_is_heard_and_who_does_not_keeps_nobody() -> None:
    """A peer that stands still, one that is gone, one that knows nothing, and two that answer."""
    for_ever = threading.Event()

    def ask(peer: str) -> bytes | None:
        if peer == "still":
            for_ever.wait(60)
        if peer == "gone":
            raise ConnectionRefusedError
        return None if peer == "ignorant" else peer.encode()

    began = time.monotonic()
    peers = ["still", "gone", "ignorant", "a", "b"]
    assert sorted(ask_all(peers, ask, seconds=2.0)) == [b"a", b"b"]
    assert time.monotonic() - began < 30, "it waits for the one that stands still"
    for_ever.set()
    assert ask_all([], ask, seconds=1.0) == []


def test_a_server_answers_what_it_was_told_to() -> None:
    server = PeerServer("127.0.0.1", KEY)
    try:
        assert ask_all([server.address], lambda peer: inquire(peer, "commits", key=KEY, seconds=5.0), seconds=5.0) == []
        server.answers["commits"] = lambda name: b"commit 1 4\n"
        assert inquire(server.address, "commits", key=KEY, seconds=5.0) == b"commit 1 4\n"
    finally:
        server.close()
