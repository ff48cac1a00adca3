"""The ranks of one worker go on together, or give up together, whatever each of them has met."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from muloco.outer import QuorumPolicy, RunProgress, TransportError, WorkerIdentity
from muloco.outer.codecs.channel import Channel
from muloco.outer.codecs.compression import Compression
from muloco.outer.in_process import InProcessGroup
from muloco.outer.protocol.company import Stranger
from muloco.outer.protocol.header import Header
from muloco.outer.protocol.membership import Membership
from muloco.outer.protocol.outcome import CatchUp, LeftBehind
from muloco.outer.protocol.reachability import StaysOut
from muloco.outer.protocol.terms import Terms
from muloco.outer.protocol.transaction import agree, assemble
from muloco.outer.system_clock import SystemClock

from ..over_torchft import connect, in_threads
from ..toy import SECONDS

RANKS = 2
CHANNEL = Channel(Compression(), {"w": torch.empty(3)})


class Ranks:
    """The ranks of a worker as threads, each with a transport of its own."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(RANKS)
        self._values = [False] * RANKS

    def transport(self, rank: int, **options: Any) -> SimpleNamespace:
        def any_rank(value: bool) -> bool:
            self._values[rank] = value
            self._barrier.wait(SECONDS)
            found = any(self._values)
            self._barrier.wait(SECONDS)
            return found

        seams = {"any_rank": any_rank, "cut": lambda: None, "clock": SystemClock(), "device": torch.device("cpu")}
        return SimpleNamespace(**seams, answer=lambda question, answer: None, **options)

    def run(self, work: Callable[[int], object]) -> list[str]:
        """Returns the error of each rank, or nothing."""

        def one(rank: int) -> str:
            try:
                work(rank)
            except TransportError as error:
                return str(error)
            return ""

        return in_threads(RANKS, one)


def failing(error: TransportError) -> SimpleNamespace:
    """A round that has failed on this rank."""

    def exchange(outgoing, sizes) -> list[torch.Tensor]:
        raise error

    return SimpleNamespace(
        **{"rank": 0, "size": 1, "wire": torch.device("cpu"), "exchanges": 0, "strangers": (), "bytes_sent": 0},
        **{"exchange": exchange, "tag": lambda *args: b"", "vote": lambda ok: False},
    )


def header(worker: int = 0, fragment: int | None = 0, weight: int = 4) -> Header:
    return Header(
        **{"run": "r", "worker": worker, "terms": Terms(workers=2, sync_interval=4), "step": 4, "fragment": fragment},
        **{"weight": weight, "finite": True, "digest": 1, "data_position": "", "commit_hash": "h"},
    )


def membership(transport: Any, **options: Any) -> Membership:
    defaults = {"quorum": QuorumPolicy(), "progress": RunProgress(), "handover": None}
    return Membership(
        transport,
        identity=WorkerIdentity(workers=2),
        terms=Terms(),
        channel_of=lambda fragment: CHANNEL,
        data_position=str,
        **(defaults | options),
    )


def test_a_round_that_does_not_count_on_one_rank_counts_on_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank stays out on account of a worker that the other one reaches."""
    monkeypatch.setattr("muloco.outer.protocol.transaction.PAUSE_SECONDS", 0.0)
    ranks = Ranks()

    def work(rank: int) -> None:
        alone = InProcessGroup(1).transport(0)
        error = StaysOut("out") if rank == 0 else TransportError("the ranks have met different workers")
        rounds = iter([*(failing(error) for _ in range(15)), None])
        transport = ranks.transport(rank, open=lambda step: next(rounds) or alone.open(step))
        assert agree(transport, header(), lambda: torch.ones(3), lambda fragment: CHANNEL).attempts == 16

    assert ranks.run(work) == ["", ""]


@pytest.mark.parametrize("impatient", range(RANKS))
def test_they_give_up_at_the_same_round(impatient: int) -> None:
    """Their clocks differ."""
    ranks = Ranks()

    def work(rank: int) -> None:
        transport = ranks.transport(rank, open=lambda step: failing(TransportError("cut off")))
        quorum = QuorumPolicy(quorum_timeout_seconds=0.0 if rank == impatient else 1000.0)
        assemble(transport, header(fragment=None, weight=0), lambda fragment: CHANNEL, quorum)

    assert all("workers met within" in said for said in ranks.run(work))


@pytest.mark.parametrize("impatient", range(RANKS))
def test_they_give_up_a_sync_at_the_same_round(impatient: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muloco.outer.protocol.transaction.PAUSE_SECONDS", 0.0)
    ranks = Ranks()

    def work(rank: int) -> None:
        transport = ranks.transport(rank, open=lambda step: failing(Stranger("it has no secret")))
        patience = 0.0 if rank == impatient else 1000.0
        agree(transport, header(), lambda: torch.ones(3), lambda fragment: CHANNEL, patience=patience)

    said = ranks.run(work)
    assert "a worker that does not belong to the run" in said[impatient] and "another rank" in said[1 - impatient]


@pytest.mark.parametrize("unlucky", range(RANKS))
def test_a_state_that_one_rank_does_not_get_is_taken_over_by_none(unlucky: int) -> None:
    ranks, unpacked = Ranks(), []

    def work(rank: int) -> None:
        def fetch(name: str, donor: int) -> bytes:
            if rank == unlucky:
                raise TransportError("it has gone")
            return b"state"

        transport = ranks.transport(rank, fetch=fetch)
        member = membership(transport, handover=SimpleNamespace(unpack=unpacked.append))
        committed = SimpleNamespace(stops=False, name="1")
        assert not member.take_over(CatchUp(donor=1, committed=committed))  # type: ignore[arg-type]

    assert ranks.run(work) == ["", ""]
    assert unpacked == []


def test_if_the_others_went_on_without_a_worker_that_is_alone_all_its_ranks_know() -> None:
    """Only its first rank reads the commit logs."""
    ranks = Ranks()

    def work(rank: int) -> None:
        progress = RunProgress(committed_without_me=lambda step, fragment: rank == 0)
        member = membership(ranks.transport(rank), progress=progress)
        member.part(InProcessGroup(1).transport(0))
        own = {"weight": 1, "finite": True, "checksums": lambda: torch.tensor([1, 1]), "overwrite": False}
        outcome = member.agree(1, 0, lambda: torch.ones(3), **own)
        assert outcome == LeftBehind()

    assert ranks.run(work) == ["", ""]


def test_a_worker_stops_waiting_for_a_quorum_when_one_of_its_ranks_does(lighthouse) -> None:
    transport = connect(0, lighthouse(1), least=2, quorum_seconds=1000)
    transport.any_rank = lambda value: True  # type: ignore[method-assign]  the other rank's time is over
    with pytest.raises(TransportError, match="no quorum of 2 or more"):
        transport.open(1)
    transport.close()
