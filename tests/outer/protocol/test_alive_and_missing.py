"""A lighthouse that gets no heartbeats of some workers, or was restarted and knows nobody, lets another worker meet
alone."""

import threading
from urllib.parse import urlsplit

from muloco.outer.protocol.peer_round import PeerRound

from ..gate import Gate
from ..joining import Worker
from ..over_torchft import connect, in_threads
from ..toy import SECONDS, Case

CASE = Case(workers=3, interval=2, steps=8)
ALONE_BEFORE = 4
"""The step of the sync in which worker 0 meets nobody at first."""


def test_a_sync_waits_for_workers_that_are_in_their_inner_steps(lighthouse) -> None:
    """They come once worker 0 has met nobody."""
    server = lighthouse(1, heartbeat_seconds=1.0)
    gate = Gate(int(urlsplit(server).port))
    ready, alone = threading.Barrier(CASE.workers), threading.Event()

    def before_sync(member: Worker) -> None:
        if member.step == ALONE_BEFORE:
            ready.wait(SECONDS)
            if member.worker == 0:
                gate.open.clear()
            else:
                assert alone.wait(SECONDS)

    def work(worker: int) -> Worker:
        transport = connect(worker, server if worker == 0 else gate.address)
        opened = transport.open

        def opens(step: int) -> PeerRound:
            this_round = opened(step)
            if step == ALONE_BEFORE and this_round.size == 1:
                alone.set()
                gate.open.set()
            return this_round

        transport.open = opens  # type: ignore[method-assign]
        member = Worker(CASE, transport, worker)
        member.train(before_sync)
        transport.close()
        return member

    done = in_threads(CASE.workers, work)
    gate.close()
    assert [member.moves for member in done] == [[]] * CASE.workers, "nobody has lost its window"
    for member in done:
        assert [(step, who) for step, who, _ in member.syncs] == [(step, [0, 1, 2]) for step in (2, 4, 6, 8)]
        assert member.syncs == done[0].syncs
