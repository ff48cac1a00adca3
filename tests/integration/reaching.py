"""A worker of `test_unreachable.py`, a process: it trains a few numbers, and prints a line of JSON a sync.

    python -m tests.integration.reaching WORKER WORKERS HOST LIGHTHOUSE

With an empty LIGHTHOUSE it starts one, and prints its address first.
"""

import json
import logging
import sys
import time
from datetime import timedelta

from torchft.coordination import LighthouseServer

from muloco.outer import QuorumPolicy
from muloco.outer.wire.network import Network, split
from muloco.outer.wire.peer_group import GlooGroup
from muloco.outer.wire.torchft import TorchftTransport
from tests.outer.joining import Worker
from tests.outer.toy import Case

SECRET = b"a secret of the workers of a test"
EXCHANGE, QUORUM = timedelta(seconds=3), timedelta(seconds=100)


def main(worker: int, workers: int, host: str, lighthouse: str) -> None:
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    if not lighthouse:
        server = LighthouseServer(
            bind="127.0.0.1:0", min_replicas=1, join_timeout_ms=60_000, quorum_tick_ms=20, heartbeat_timeout_ms=5000
        )
        _, port = split(server.address().removeprefix("http://"))
        lighthouse = Network(host, SECRET).announce(port)
        sys.stdout.write(json.dumps({"lighthouse": lighthouse}) + "\n")
        sys.stdout.flush()
    transport = TorchftTransport(
        run="run",
        secret=SECRET,
        worker=worker,
        min_replica_size=1,
        lighthouse=f"http://{lighthouse}",
        rank=0,
        ranks=1,
        host=host,
        group=GlooGroup(EXCHANGE),
        quorum_timeout=QUORUM,
        exchange_timeout=EXCHANGE,
    )
    told = 0

    def before_sync(member: Worker) -> None:
        nonlocal told
        for (step, met, _), attempts in zip(member.syncs[told:], member.attempts[told:], strict=True):
            sys.stdout.write(json.dumps({"step": step, "workers": met, "attempts": attempts}) + "\n")
            sys.stdout.flush()
        told = len(member.syncs)
        time.sleep(0.2)

    case = Case(workers=workers, interval=2, steps=10**6)
    Worker(case, transport, worker, quorum=QuorumPolicy()).train(before_sync)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
