"""Somebody without the secret of the run comes to its lighthouse: it learns nothing and changes nothing."""

import contextlib
import logging
import threading
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from muloco.outer import ForeignRun, TransportError
from muloco.outer.protocol import group as groups
from muloco.outer.protocol.header import PROTOCOL
from muloco.outer.protocol.peer_transport import PeerTransport
from muloco.outer.wire.peer_group import GlooGroup

from ..faults import die_at
from ..over_torchft import connect, in_threads
from ..toy import SECONDS, Case, Result, start, train, train_in_process, walk
from .test_authentication import of_version

CASE = Case(workers=2, fragments=2, interval=4, steps=12)
OTHER = b"another secret than that of the run"


def leave(transport: PeerTransport) -> None:
    """Ends a transport as the end of its process would."""
    with pytest.raises(Exception):  # noqa: B017  what a worker that dies raises
        die_at(transport)()


def test_an_outsider_is_named_and_left_out(
    lighthouse, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outsider claims the number of a live worker, comes during the training and stays for some syncs."""
    monkeypatch.setattr("muloco.outer.protocol.transaction.ALONE_SECONDS", 0.0)
    address, came, gone = lighthouse(2, heartbeat_seconds=3), threading.Event(), threading.Event()
    sent: list[int] = []
    said: list[str] = []

    def work(worker: int) -> Result:
        transport = connect(worker, address, least=2)
        parameters = start()
        loop = CASE.loop(parameters, transport, worker)
        loop.start(0)
        first = walk(loop, parameters, worker, range(1, 5), CASE.steps)
        if worker == 0:
            guest.start()
        assert came.wait(SECONDS)
        second = walk(loop, parameters, worker, range(5, 9), CASE.steps)
        assert gone.wait(SECONDS)
        rest = walk(loop, parameters, worker, range(9, CASE.steps + 1), CASE.steps)
        transport.close()
        return Result(parameters, loop, first.syncs + second.syncs + rest.syncs, [])

    def come() -> None:
        transport = connect(1, address, run="a", secret=OTHER)  # its name comes first, so that it is the first member
        came.set()
        swap = transport.wire.swap
        transport.wire.swap = lambda *args: (sent.append(1), swap(*args))  # type: ignore[method-assign]
        parameters = start()
        try:
            CASE.loop(parameters, transport, 1).start(0)
        except (ForeignRun, TransportError) as error:
            said.append(str(error))
        leave(transport)
        gone.set()

    guest = threading.Thread(target=come)
    with caplog.at_level(logging.WARNING, "muloco"):
        ours = in_threads(2, work)
    guest.join()
    for result, alone in zip(ours, train_in_process(CASE), strict=True):
        assert result.history == alone.history and result.digests == alone.digests
        assert [sync.attempts for _, sync in result.syncs] == [sync.attempts for _, sync in alone.syncs]
        for name, value in alone.parameters.items():
            assert torch.equal(result.parameters[name], value), name
    assert not sent, "it was not connected to anybody"
    assert len(said) == 1 and "MULOCO_SECRET" in said[0]
    warned = {record.getMessage() for record in caplog.records if "does not have the secret" in record.getMessage()}
    assert "worker 1 does not have the secret of this run (MULOCO_SECRET); the others go on without it" in warned


def test_one_of_another_version_is_left_out_before_anything_is_connected(
    lighthouse, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the secret."""
    version = PROTOCOL + 1
    ours, theirs = groups.admit, of_version(version)

    def admit(store, key, rank, size, *args, **options):
        if rank == 0:
            return ours(store, key, rank, size, *args, **options)
        theirs(store._store, rank, size)
        raise TransportError("this is all that it has to say")

    monkeypatch.setattr(groups, "admit", admit)
    address = lighthouse(2, heartbeat_seconds=3)
    transports = [connect(worker, address) for worker in range(2)]

    def work(worker: int) -> list[object]:
        this_round = transports[worker].open(1)
        return [this_round.size, *this_round.strangers]

    with caplog.at_level(logging.WARNING, "muloco"):
        assert in_threads(2, work)[0] == [1, f"worker 1 (version {version} of the protocol)"]
    for transport in transports:
        leave(transport)
    said = f"worker 1 uses version {version} of the protocol, and this worker version {PROTOCOL}"
    assert f"{said}; the others go on without it" in [record.getMessage() for record in caplog.records]


def test_outsiders_do_not_count_for_a_quorum(lighthouse) -> None:
    """The lighthouse takes a worker and an outsider for enough; the worker waits until the other one comes."""
    address, waiting = lighthouse(2, heartbeat_seconds=3), threading.Event()
    outsider = connect(1, address, secret=OTHER, quorum_seconds=3)
    done = threading.Event()

    def come() -> None:
        while not done.is_set():  # the others would wait for one that is silent and still there
            with contextlib.suppress(TransportError):  # it has been left alone
                outsider.open(0).vote(False)
        leave(outsider)

    def work(worker: int) -> list[int]:
        if worker == 1:
            assert waiting.wait(SECONDS)
        transport = connect(worker, address, least=2, quorum_seconds=SECONDS)
        vote = transport.wire.abort

        def aborted(*args, **options) -> None:
            waiting.set()
            vote(*args, **options)

        transport.wire.abort = aborted  # type: ignore[method-assign]
        this_round = transport.open(1)
        found = [this_round.size, len(this_round.strangers), this_round.vote(True)]
        done.set()
        transport.close()
        return found

    guest = threading.Thread(target=come)
    guest.start()
    found = in_threads(2, work)
    guest.join()
    assert found == [[2, found[0][1], True], [2, found[1][1], True]]


@pytest.mark.parametrize("members", [1, 2])
def test_only_a_group_of_the_whole_quorum_deletes_what_all_have_written(members: int) -> None:
    """The others of a quorum may still be reading it, or still be connecting in a group of their own."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    keys = ["torchft/1/0/nonce/0", "torchft/1/0/mine/0", "torchft/1/0/mine-1/0", "torchft/11/0/mine/0"]
    for key in keys:
        store.set(key, "")
    group = GlooGroup(timedelta(seconds=20))
    group.rendezvous, group._name, group._whole = f"127.0.0.1:{store.port}/torchft/1/0", "mine", members == 2
    group.forget_rendezvous(timedelta(seconds=20))
    left = keys[3:] if members == 2 else [keys[0], *keys[2:]]
    assert sorted(store.list_keys()) == sorted(left)


def test_a_worker_that_stays_alone_with_outsiders_says_so(lighthouse) -> None:
    address = lighthouse(2, heartbeat_seconds=3)
    transports = [
        connect(0, address, least=2, quorum_seconds=3),
        connect(1, address, least=2, quorum_seconds=3, secret=OTHER),
    ]

    def work(worker: int) -> str:
        with pytest.raises(TransportError) as caught:
            transports[worker].open(1)
        leave(transports[worker])
        return str(caught.value)

    for said in in_threads(2, work):
        assert "no quorum of 2 or more workers within 3 s" in said


def test_a_run_begins_though_an_outsider_is_there_first(lighthouse) -> None:
    """The first worker meets only the outsider until the second one comes, and does not take itself for a stranger."""
    address, met = lighthouse(1, heartbeat_seconds=3), threading.Event()
    outsider = connect(2, address, secret=OTHER, quorum_seconds=3)

    def come() -> None:
        while not done.is_set():  # the others would wait for one that is silent and still there
            with contextlib.suppress(TransportError):  # it has been left alone
                outsider.open(0).vote(False)
        leave(outsider)

    def work(worker: int) -> Result:
        if worker == 1:
            assert met.wait(SECONDS)
        transport = connect(worker, address)
        meet = transport.open

        def open_round(step: int):
            this_round = meet(step)
            if this_round.strangers:
                met.set()
            return this_round

        transport.open = open_round  # type: ignore[method-assign]
        result = train(CASE, worker, transport)
        done.set()
        transport.close()
        return result

    done, guest = threading.Event(), threading.Thread(target=come)
    guest.start()
    ours = in_threads(2, work)
    guest.join()
    for result, alone in zip(ours, train_in_process(CASE), strict=True):
        assert result.history == alone.history and result.digests == alone.digests
