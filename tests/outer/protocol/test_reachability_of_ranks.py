"""Of two workers of several ranks one stays out of the rounds, where only one rank of each does not reach the other."""

import itertools
from datetime import timedelta

import pytest
import torch.distributed as dist

from muloco.outer.protocol import reachability
from muloco.outer.protocol.reachability import FAILURES, StaysOut
from muloco.outer.wire.torchft import TorchftTransport

from ..over_torchft import connect, in_threads
from ..toy import SECONDS
from .test_reachability import Links

WORKERS, RANKS = 3, 2


class LinksOfRank(Links):
    """Between the same rank of all workers."""

    def connect_rank(self, worker: int, rank: int, lighthouse: str, ranks_group: dist.ProcessGroup) -> TorchftTransport:
        made = connect(
            worker, lighthouse, exchange_seconds=2, group=self.group(), rank=rank, ranks=RANKS, ranks_group=ranks_group
        )
        self.transports[worker] = made
        made.reachability._reaches = self._reaches(worker)
        return made


@pytest.mark.full
def test_the_others_go_on_without_it_and_it_comes_back(lighthouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachability, "RETRY_SECONDS", 0.0)
    address, links = lighthouse(1, heartbeat_seconds=60), [LinksOfRank() for _ in range(RANKS)]
    stores = [dist.HashStore() for _ in range(WORKERS)]

    def work(place: int) -> list[int | None]:
        """Returns the sizes of the committed rounds; 0 for one that failed, None for one that it stayed out of."""
        worker, rank = divmod(place, RANKS)
        ranks_group = dist.ProcessGroupGloo(stores[worker], rank, RANKS, timedelta(seconds=SECONDS))
        transport = links[rank].connect_rank(worker, rank, address, ranks_group)
        sizes: list[int | None] = []
        for number in itertools.count(1):
            this_round = transport.open(number)
            stays_out = isinstance(this_round.failure, StaysOut)
            sizes.append(this_round.size if this_round.vote(this_round.failure is None) else None if stays_out else 0)
            if sizes == [3] and place == WORKERS * RANKS - 1:
                links[rank].cut.add(frozenset((1, 2)))
                transport.cut()
            if sizes[-3:] == [2] * 3 and worker == 0:
                links[1].cut.clear()
            if number == 30 or transport.any_rank(sizes[-1] == 3 and len(set(sizes)) > 2):
                transport.close()
                return sizes
        raise AssertionError

    found = in_threads(WORKERS * RANKS, work)
    for sizes in found[: 2 * RANKS]:
        assert 2 in sizes and None not in sizes, found
        assert sizes.index(2) <= 2 * FAILURES + 2, found
    for sizes in found[2 * RANKS :]:
        assert None in sizes and 2 not in sizes, found
