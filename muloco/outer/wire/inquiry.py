"""Questions to several peers at once, within a time for all of them together."""

import queue
import threading
import time
from collections.abc import Callable, Collection


def ask_all(peers: Collection[str], ask: Callable[[str], bytes | None], *, seconds: float) -> list[bytes]:
    """Asks several peers at once and returns the answers that arrive in time.

    Args:
        peers: the peers to ask.
        ask: asks one peer; it returns None or raises OSError if there is no answer. It is called in a thread of its
            own, so a late answer delays nothing.
        seconds: time limit for all peers together.
    """
    answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def ask_one(peer: str) -> None:
        try:
            answers.put(ask(peer))
        except OSError:
            answers.put(None)

    for peer in peers:
        threading.Thread(target=ask_one, args=(peer,), name=f"question to {peer}", daemon=True).start()
    deadline, received = time.monotonic() + seconds, []
    for _ in peers:
        try:
            answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if answer is not None:
            received.append(answer)
    return received
