"""If two workers cannot reach each other, one of them stays out of the rounds until they can."""

import itertools
import socket
from collections.abc import Callable

import pytest
import torch.distributed as dist
from torchft.process_group import ProcessGroupGloo

from muloco.outer.protocol import reachability
from muloco.outer.protocol.peer_transport import PeerTransport
from muloco.outer.protocol.reachability import FAILURES, Reachability, staying_out
from muloco.outer.system_clock import SystemClock
from muloco.outer.wire.peer_group import GlooGroup
from muloco.outer.wire.torchft import reaches

from ...covering import only
from ..joining import Worker
from ..over_torchft import connect, in_threads
from ..toy import Case


@pytest.mark.parametrize("members", [2, 3, 4])
def test_who_stays_out(members: int) -> None:
    """All members and all claims of who does not reach whom, of absent workers, too."""
    directed = [(one, other) for one in range(members) for other in range(members + 1) if one != other]
    for number in range(len(directed) + 1) if members < 4 else (1, 2, 3):
        for claims in itertools.combinations(directed, number):
            apart = {member: [other for one, other in claims if one == member] for member in range(members)}
            out = staying_out(apart)
            assert all(one in out or other in out for one, other in claims if other < members), claims
            for worker, other in out.items():
                assert other < worker and other not in out, claims
                assert (worker, other) in claims or (other, worker) in claims


def test_a_machine_that_refuses_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert reaches(address)
    assert reaches(address), "its worker has gone"
    assert not reaches("255.255.255.255:1")
    assert not reaches("a name that nobody has:1")


def test_only_failed_rounds_in_a_row_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachability, "RETRY_SECONDS", 0.0)
    cut = {"b:1"}
    own = Reachability(0, "own:1", SystemClock(), lambda address: address not in cut)
    own.introduced({0: "own:1", 1: "a:1", 2: "b:1"})
    for _ in range(FAILURES - 1):
        own.failed([0, 1, 2])
    assert own.apart() == []
    cut.clear()
    own.failed([0, 1, 2])
    cut.add("b:1")
    for _ in range(FAILURES - 1):
        own.failed([0, 1, 2])
        own.failed([0, 1])
        assert own.apart() == []
    own.failed([0, 1, 2])
    assert own.apart() == [2]
    own.look_again()
    assert own.apart() == [2]
    cut.clear()
    own.look_again()
    assert own.apart() == []
    cut.add("b:1")
    assert own.apart() == [], "it counts from the start again"


def test_a_worker_that_is_started_again_elsewhere_does_not_stay_out() -> None:
    """The restarted worker has a new address, which no other worker has reported as unreachable."""
    own = Reachability(0, "own:1", SystemClock(), lambda address: False)
    own.introduced({1: "a:1", 2: "b:1"})
    for _ in range(FAILURES):
        own.failed([2])
    assert own.settle({0: own.remark(), 1: "a:1", 2: "b:1"}) == {2}
    assert own.settle({0: own.remark(), 1: "a:1", 2: "c:1"}) == set() and own.apart() == []
    assert own.settle({0: own.remark(), 1: "a:1 c:1", 2: "c:1"}) == {2}, "another member complains"


def test_the_log_says_once_who_stays_out(caplog: pytest.LogCaptureFixture) -> None:
    own = Reachability(0, "own:1", SystemClock(), lambda address: False)
    said = []
    for complains in (True, True, False, True):
        own.settle({0: "own:1", 1: "a:1", 2: "c:1 a:1" if complains else "c:1"})
        own.settle_alone([0, 1, 2], host="elsewhere")
        said.append(len(caplog.records))
    assert said == [1, 1, 1, 2]
    assert "worker 1 and worker 2 do not reach each other at a:1 and c:1" in caplog.messages[0]


class Links:
    """Which workers of a test do not reach each other."""

    def __init__(self) -> None:
        self.cut: set[frozenset[int]] = set()
        self.transports: dict[int, PeerTransport] = {}

    def connect(self, worker: int, lighthouse: str) -> PeerTransport:
        made = connect(worker, lighthouse, exchange_seconds=2, group=self.group())
        self.transports[worker] = made
        made.reachability._reaches = self._reaches(worker)
        return made

    def _reaches(self, worker: int) -> Callable[[str], bool]:
        def reached(address: str) -> bool:
            (other,) = [w for w, transport in self.transports.items() if transport.address == address]
            return frozenset((worker, other)) not in self.cut

        return reached

    def group(self) -> type[GlooGroup]:
        links = self

        class Gloo(ProcessGroupGloo):
            """Does not connect workers that do not reach each other."""

            def _create_pg(self, store: dist.Store, rank: int, world_size: int) -> dist.ProcessGroup:
                workers = [(number - self._group_rank) // self._group_world_size for number in self._global_ranks]
                if any(frozenset((workers[rank], worker)) in links.cut for worker in workers):
                    raise RuntimeError("Connect timeout [none]")
                return super()._create_pg(store, rank, world_size)

        class Group(GlooGroup, Gloo):
            pass

        return Group


@pytest.mark.parametrize(("workers", "pair"), only([(2, (0, 1))], [(2, (0, 1)), (3, (1, 2)), (3, (0, 1))]))
def test_the_others_go_on_without_it_and_it_comes_back(
    workers: int, pair: tuple[int, int], lighthouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reachability, "RETRY_SECONDS", 0.0)
    case, links, address = Case(workers=workers, interval=2, steps=60), Links(), lighthouse(1, heartbeat_seconds=60)
    stays = [worker for worker in range(workers) if worker != pair[1]]
    members: dict[int, Worker] = {}

    def before_sync(member: Worker) -> None:
        if member.worker != 0:
            return
        if member.step == 6:
            links.cut.add(frozenset(pair))
            links.transports[1].cut()
        if sum(met == stays for _, met, _ in member.syncs) == 6:
            links.cut.clear()

    def work(worker: int) -> Worker:
        transport = links.connect(worker, address)
        members[worker] = Worker(case, transport, worker)
        members[worker].train(before_sync)
        transport.close()
        return members[worker]

    done = in_threads(workers, work)
    met = [who for _, who, _ in done[0].syncs]
    everyone = list(range(workers))
    without = [step for step, who, _ in done[0].syncs if who == stays]
    assert without == list(range(6, without[-1] + 1, 2)) and 6 <= len(without) <= 9
    assert met == [everyone] * 2 + [stays] * len(without) + [everyone] * (28 - len(without))
    assert done[0].attempts[2] <= FAILURES + 1, "one of the two stays out after so many failed rounds"
    assert done[0].attempts[3 : 2 + len(without)] == [1] * (len(without) - 1), "then no round fails"
    assert [worker.worker for worker in done if worker.moves] == [pair[1]]
    assert len({worker.syncs[-1] for worker in map(_last, done)}) == 1


def _last(worker: Worker) -> Worker:
    worker.syncs = [(step, tuple(who), digest) for step, who, digest in worker.syncs]
    return worker
