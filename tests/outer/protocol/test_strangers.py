"""A worker whose payloads would have other sizes stops before it sends one; the others train on without it."""

import itertools
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from muloco.outer import ForeignRun, QuorumPolicy, RunProgress, TransportError, WorkerIdentity
from muloco.outer.codecs import build_codec
from muloco.outer.codecs.channel import Channel
from muloco.outer.codecs.compression import Compression
from muloco.outer.in_process import InProcessGroup
from muloco.outer.protocol import transaction
from muloco.outer.protocol.exchange import gather_bytes
from muloco.outer.protocol.header import Header
from muloco.outer.protocol.membership import Membership
from muloco.outer.protocol.outcome import Committed
from muloco.outer.protocol.terms import Terms
from muloco.outer.protocol.transaction import agree, assemble
from muloco.outer.system_clock import SystemClock

from ..faults import die_at
from ..over_torchft import connect
from ..toy import SECONDS, Case, Result, start, walk
from ..workers import run_workers

BF16 = {
    "compression": Compression(codec=build_codec("bf16")),
    "settings": {"compression.kind": "bf16"},
}
NONE = {"settings": {"compression.kind": "none"}}
CASE = Case(workers=3, interval=4, steps=12)


def quorum_of(least: int, *, late_after: float = 0.0, patience: float = SECONDS) -> QuorumPolicy:
    return QuorumPolicy(min_replica_size=least, straggler_timeout_seconds=late_after, quorum_timeout_seconds=patience)


def begin(case: Case, worker: int, transport, **options) -> Result | str:
    """One worker's run; the reason, if it is refused."""
    parameters = start()
    loop = case.loop(parameters, transport, worker, **({"quorum": quorum_of(1)} | options))
    try:
        loop.start(0)
        return walk(loop, parameters, worker, range(1, case.steps + 1), case.steps)
    except ForeignRun as error:
        return str(error)


@pytest.mark.parametrize("workers", [2, 3])
def test_of_workers_that_begin_together_the_fewer_stop(workers: int) -> None:
    """Of two workers, the one with the higher number stops."""
    group, case = InProcessGroup(workers), CASE.with_(workers=workers)

    def work(worker: int) -> Result | str:
        return begin(case, worker, group.transport(worker), **(BF16 if worker == workers - 1 else NONE))

    *ours, refused = run_workers(group, work)
    assert isinstance(refused, str) and "compression.kind=bf16, the run has none" in refused
    for result in ours:
        assert [sorted(sync.weights) for _, sync in result.syncs] == [list(range(workers - 1))] * 3
        assert result.digests == ours[0].digests


@pytest.mark.parametrize("misfit", ["compression", "interval", "fragments", "workers"])
def test_a_newcomer_with_another_config_leaves_a_run_over_gloo_as_it_was(misfit: str, lighthouse) -> None:
    """The stranger comes during the training. With gloo, a payload of a different size would end every process."""
    case, address = CASE.with_(workers=3), lighthouse(1, heartbeat_seconds=3)
    changes = {"interval": {"interval": 5}, "fragments": {"fragments": 3}, "workers": {"workers": 4}}.get(misfit, {})
    connected, refused = threading.Event(), []
    transports = [connect(worker, address, least=1) for worker in range(2)]

    def come() -> None:
        transport = connect(2, address)
        connected.set()
        other = case.with_(**changes)
        refused.append(begin(other, 2, transport, **(BF16 if misfit == "compression" else NONE)))
        die = die_at(transport)
        with pytest.raises(Exception):  # noqa: B017  what a worker that dies raises
            die()

    results: dict[int, Result] = {}
    guest = threading.Thread(target=come)

    def work(worker: int) -> None:
        parameters = start()
        loop = case.loop(parameters, transports[worker], worker, quorum=quorum_of(2), **NONE)
        loop.start(0)
        first = walk(loop, parameters, worker, range(1, 5), case.steps)
        if worker == 0:
            guest.start()
        assert connected.wait(SECONDS)
        rest = walk(loop, parameters, worker, range(5, case.steps + 1), case.steps)
        results[worker] = replace(rest, syncs=first.syncs + rest.syncs)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(2)]
    for thread in threads:
        thread.start()
    for thread in (*threads, guest):
        thread.join()
    for transport in transports:
        transport.close()
    assert len(refused) == 1 and isinstance(refused[0], str) and "the run has" in refused[0]
    assert results[0].digests == results[1].digests
    assert [sorted(sync.weights) for _, sync in results[0].syncs] == [[0, 1]] * 3


def member_of(transport, worker: int, workers: int, *, patience: float) -> Membership:
    return Membership(
        transport,
        identity=WorkerIdentity(run="r", worker=worker, workers=workers),
        quorum=QuorumPolicy(quorum_timeout_seconds=patience),
        progress=RunProgress(),
        terms=Terms(workers=workers),
        channel_of=lambda fragment: None,
        data_position=str,
        handover=None,
    )


def test_a_worker_that_waits_at_the_start_says_for_how_many(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "TELL_SECONDS", 0.0)
    quorum = quorum_of(1, late_after=1.0)
    with caplog.at_level("INFO"):
        begin(CASE.with_(workers=4), 0, InProcessGroup(1).transport(0), quorum=quorum, **NONE)
    assert [record.args for record in caplog.records if record.module == "transaction"] == [(1, 4, 1.0, 1)]


@pytest.mark.parametrize(("first_meeting", "begins"), [(0.0, 1200), (900.0, 1200), (1195.0, 1205), (1700.0, 1710)])
def test_after_a_long_meeting_the_others_have_some_time_left(first_meeting: float, begins: float) -> None:
    """One of two workers begins alone when the other one is late, whatever its meetings have taken: the lighthouse may
    have been away, or may have waited for the other one itself."""
    alone, now = InProcessGroup(1).transport(0), [0.0]
    meetings = iter([first_meeting])

    def meet(step: int):
        now[0] += next(meetings, 0.0)
        return alone.open(step)

    def sleep(seconds: float) -> None:
        now[0] += seconds

    clock = SimpleNamespace(now=lambda: now[0], sleep=sleep)
    transport = SimpleNamespace(open=meet, any_rank=bool, cut=lambda: None, clock=clock, device=torch.device("cpu"))
    own = Header(
        **{"run": "r", "worker": 0, "terms": Terms(workers=2), "step": 0, "fragment": None, "weight": 0},
        **{"finite": True, "digest": 1, "data_position": "", "commit_hash": ""},
    )
    committed = assemble(transport, own, lambda fragment: None, QuorumPolicy())
    assert isinstance(committed, Committed) and committed.weights == {0: 0}
    assert begins <= now[0] < begins + 0.5


class Answered:
    """A round of two members, of which the other one sends this message in place of a header."""

    rank, size, bytes_sent, name, exchanges = 0, 2, 0, "1", 0
    device = wire = torch.device("cpu")
    strangers = ()

    def __init__(self, message: bytes):
        self._replies: list[torch.Tensor] = []
        alone = SimpleNamespace(rank=0, size=1, wire=self.wire, exchanges=0, exchange=self._record, tag=self.tag)
        gather_bytes(alone, message)  # type: ignore[arg-type]

    def _record(self, outgoing, sizes) -> list[torch.Tensor]:
        self._replies.append(outgoing[0])
        return list(outgoing)

    def exchange(self, outgoing, sizes) -> list[torch.Tensor]:
        return [outgoing[0], self._replies.pop(0)]

    def tag(self, rank: int, number: int, data: bytes) -> bytes:
        return b""

    def vote(self, ok: bool) -> bool:
        return ok


def test_a_stranger_does_not_use_up_the_attempts_of_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stranger comes to more rounds than may fail, and goes; then the round is committed."""
    monkeypatch.setattr("muloco.outer.protocol.transaction.PAUSE_SECONDS", 0.0)
    channel = Channel(Compression(), {"w": torch.empty(3)})
    own = Header(
        **{"run": "r", "worker": 0, "terms": Terms(workers=2, sync_interval=4), "step": 4, "fragment": 0, "weight": 4},
        **{"finite": True, "digest": 1, "data_position": "", "commit_hash": "h"},
    )
    alone = InProcessGroup(1).transport(0)
    rounds = iter([*(Answered(b"GET / HTTP/1.1") for _ in range(15)), None])

    def open_round(step: int):
        return next(rounds) or alone.open(step)

    transport = SimpleNamespace(
        open=open_round, any_rank=bool, cut=lambda: None, clock=SystemClock(), device=torch.device("cpu")
    )
    agreement = agree(transport, own, lambda: torch.ones(3), lambda fragment: channel)
    assert agreement.weights == {0: 4} and agreement.attempts == 16
    transport.open = lambda step: Answered(b"GET / HTTP/1.1")
    with pytest.raises(TransportError, match="a worker that does not belong to the run"):
        agree(transport, own, lambda: torch.ones(3), lambda fragment: channel, patience=0.0)


def test_rounds_that_fail_at_once_do_not_use_up_the_attempts_within_seconds() -> None:
    """The first ones are repeated at once."""
    pauses: list[float] = []

    def cut_off(step: int):
        group = InProcessGroup(1).transport(0)
        this_round = group.open(step)
        group.cut()
        return this_round

    clock = SimpleNamespace(now=time.monotonic, sleep=pauses.append)
    transport = SimpleNamespace(open=cut_off, any_rank=bool, cut=lambda: None, clock=clock, device=torch.device("cpu"))
    own = Header(
        **{"run": "r", "worker": 0, "terms": Terms(workers=2, sync_interval=4), "step": 4, "fragment": 0, "weight": 4},
        **{"finite": True, "digest": 1, "data_position": "", "commit_hash": "h"},
    )
    with pytest.raises(TransportError, match="10 rounds failed"):
        agree(transport, own, lambda: torch.ones(3), lambda fragment: Channel(Compression(), {"w": torch.empty(3)}))
    assert pauses[:2] == [0, 0] and sum(pauses) > 10


@pytest.mark.parametrize(
    ("strangers", "commit_hash", "others", "stops"),
    [(["worker 1"], "", 0, True), ([], "", 0, False), (["worker 1"], "h", 0, False), (["worker 2"], "", 1, False)],
)
def test_a_new_worker_that_meets_only_others_with_another_secret_stops(
    strangers: list[str], commit_hash: str, others: int, stops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while, in which others of its own run can come."""
    monkeypatch.setattr("muloco.outer.protocol.transaction.ALONE_SECONDS", 0.1)
    group = InProcessGroup(1 + others)

    def work(worker: int) -> str:
        transport = group.transport(worker)
        meet = transport.open

        def open_round(step: int):
            this_round = meet(step)
            this_round.strangers = strangers
            return this_round

        transport.open = open_round
        member = member_of(transport, worker, 1 + others, patience=SECONDS)
        member.commit_hash = commit_hash
        try:
            member.start(0, torch.tensor([1, 1]))
        except ForeignRun as error:
            return str(error)
        return ""

    for said in run_workers(group, work):
        assert ("worker 1" in said and "MULOCO_SECRET" in said) if stops else said == ""


def test_a_worker_that_was_there_before_the_strangers_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the second worker of its run, when somebody with another secret comes."""
    monkeypatch.setattr("muloco.outer.protocol.transaction.ALONE_SECONDS", 0.0)
    transport = InProcessGroup(1).transport(0)
    meet, came = transport.open, itertools.chain([()], itertools.repeat(("worker 1",)))

    def open_round(step: int):
        this_round = meet(step)
        this_round.strangers = next(came)
        return this_round

    transport.open = open_round  # type: ignore[method-assign]
    member = member_of(transport, 0, 2, patience=0.5)
    with pytest.raises(TransportError, match="1 of 2 workers met"):
        member.start(0, torch.tensor([1, 1]))


def test_a_warning_says_once_that_fewer_than_half_take_part(caplog: pytest.LogCaptureFixture) -> None:
    """Three of four workers die one after the other."""
    case, group = Case(workers=4, interval=2, steps=10), InProcessGroup(4)

    def work(worker: int) -> None:
        parameters = start()
        loop = case.loop(parameters, group.transport(worker), worker)
        loop.start(0)
        last = {0: 10, 1: 8, 2: 4, 3: 2}[worker]
        walk(loop, parameters, worker, range(1, last + 1), 10)

    run_workers(group, work)
    said = [record.getMessage() for record in caplog.records if "fewer than half" in record.getMessage()]
    assert said == ["fewer than half of the 4 workers take part from step 10 on: 0"]
