"""Votes at a real lighthouse in which one member does not hear the others: all come to the same answer."""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch

from muloco.outer import TransportError
from muloco.outer.wire import torchft, torchft_round
from muloco.outer.wire.peer_group import GlooGroup, PeerGroup
from muloco.outer.wire.peers import COMMITTED, FAILED, VOTING, PeerServer, ask
from muloco.outer.wire.torchft import TorchftTransport
from muloco.outer.wire.torchft_round import TorchftRound

from ..faults import at_the_votes
from ..over_torchft import KEY, connect, in_threads

SECONDS = 300


def vote_of_two(
    address: str,
    group: Callable[[timedelta], PeerGroup],
    votes: dict[int, Callable[[TorchftTransport, TorchftRound], bool]],
) -> list[bool]:
    """What each of two workers hears when it votes as told."""
    both_left = threading.Barrier(2, timeout=SECONDS)

    def work(worker: int) -> bool:
        transport = connect(worker, address, least=2, group=group)
        try:
            return votes[worker](transport, transport.open(1))
        finally:
            both_left.wait()
            transport.close()

    return in_threads(2, work)


def lose_contact_after(transport: TorchftTransport, this_round: TorchftRound, happened: Callable[[], object]) -> None:
    """The exchange of the votes leaves this member without an answer, once something else has happened."""

    def lost(send: Callable[..., None], *args) -> None:
        def speak() -> None:
            with contextlib.suppress(RuntimeError):  # the group is aborted
                send(*args)

        threading.Thread(target=speak, daemon=True).start()  # what this member has to say is on its way
        happened()
        raise RuntimeError("the test has broken the connection")

    at_the_votes(transport, this_round, lost)


def test_a_vote_against_is_heard_by_all(lighthouse, group) -> None:
    votes = {0: lambda _, this_round: this_round.vote(True), 1: lambda _, this_round: this_round.vote(False)}
    assert vote_of_two(lighthouse(2), group, votes) == [False, False]


def test_who_lost_contact_waits_while_a_peer_is_voting(lighthouse, group, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer is asked while it votes; it commits only after that."""
    asked, answers, heard = threading.Event(), [], []

    def watched(*args, **options) -> str | None:
        answers.append(ask(*args, **options))
        asked.set()
        return answers[-1]

    monkeypatch.setattr(torchft, "ask", watched)
    voting = threading.Event()

    def unsure(transport: TorchftTransport, this_round: TorchftRound) -> bool:
        lose_contact_after(transport, this_round, lambda: voting.wait(SECONDS))
        committed = this_round.vote(True)
        heard.extend(answers)  # those in the vote; whoever leaves asks as well
        return committed

    def late(transport: TorchftTransport, this_round: TorchftRound) -> bool:
        def slow(send: Callable[..., None], *args) -> None:
            voting.set()
            assert asked.wait(SECONDS)
            send(*args)

        at_the_votes(transport, this_round, slow)
        return this_round.vote(True)

    assert vote_of_two(lighthouse(2), group, {0: unsure, 1: late}) == [True, True]
    assert heard[0] == VOTING and heard[-1] == COMMITTED


def test_a_peer_that_waits_for_a_vote_that_never_comes_is_released(lighthouse, caplog) -> None:
    """The member in doubt closes its connections; the exchange timeout of the other one does not have to pass."""

    def unsure(transport: TorchftTransport, this_round: TorchftRound) -> bool:
        def lost(send: Callable[..., None], *args) -> None:
            raise RuntimeError("the test has broken the connection")

        at_the_votes(transport, this_round, lost)
        return this_round.vote(True)

    votes = {0: unsure, 1: lambda _, this_round: this_round.vote(True)}
    with caplog.at_level(logging.WARNING, "muloco"):
        assert vote_of_two(lighthouse(2), GlooGroup, votes) == [False, False]
    (heard,) = [text for text in caplog.messages if "lost contact" in text and "the test" not in text]
    assert "Timed out" not in heard


def test_who_has_been_asked_before_its_vote_votes_against(lighthouse, group, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member has given the round up before another one votes: that one may not commit alone, though it could hear
    every vote."""
    asked = threading.Event()
    voted = threading.Event()

    def watched(*args, **options) -> str | None:
        answer = ask(*args, **options)
        asked.set()
        assert voted.wait(SECONDS), "the connections are still there when the late one votes"
        return answer

    monkeypatch.setattr(torchft, "ask", watched)

    def unsure(transport: TorchftTransport, this_round: TorchftRound) -> bool:
        lose_contact_after(transport, this_round, lambda: None)
        return this_round.vote(True)

    def late(transport: TorchftTransport, this_round: TorchftRound) -> bool:
        begin = transport.server.begin_vote
        transport.server.begin_vote = lambda name: asked.wait(SECONDS) and begin(name)
        try:
            return this_round.vote(True)
        finally:
            voted.set()

    assert vote_of_two(lighthouse(2), group, {0: unsure, 1: late}) == [False, False]


def test_who_leaves_after_the_last_round_first_answers_those_in_doubt(
    lighthouse, group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has committed and closes; the other one has lost contact in the same vote, and asks only then."""
    address, leaving = lighthouse(2), threading.Event()

    def watched(*args, **options) -> str | None:
        if threading.current_thread() is in_doubt[0]:
            assert leaving.wait(SECONDS), "the other one has asked, or gone"
        else:
            leaving.set()
        return ask(*args, **options)

    in_doubt: list[threading.Thread] = []
    monkeypatch.setattr(torchft, "ask", watched)

    def work(worker: int) -> bool:
        transport = connect(worker, address, least=2, group=group)
        this_round = transport.open(1)
        if worker == 0:
            in_doubt.append(threading.current_thread())
            lose_contact_after(transport, this_round, lambda: None)
            answer = this_round.vote(True)
            transport.close()
            return answer
        answer = this_round.vote(True)
        transport.close()
        leaving.set()
        return answer

    assert in_threads(2, work) == [True, True]


def test_votes_are_not_heard_before_they_are_cast(lighthouse, group) -> None:
    """One worker votes yes before the other has voted, and receives nothing until then."""
    heard, order = threading.Event(), []

    def early(transport: TorchftTransport, this_round: TorchftRound) -> bool:
        answer = this_round.vote(True)
        order.append("heard")
        heard.set()
        return answer

    def late(transport: TorchftTransport, this_round: TorchftRound) -> bool:
        assert not heard.wait(0.5)
        order.append("cast")
        return this_round.vote(True)

    assert vote_of_two(lighthouse(2), group, {0: early, 1: late}) == [True, True]
    assert order == ["cast", "heard"]


FAILURES: dict[str, Callable[[TorchftTransport], None]] = {
    "of another rank": lambda transport: transport._manager.report_error(RuntimeError("a rank is gone")),
    "of this one": lambda transport: transport.cut(),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_the_vote_stands_where_connections_fail_after_it(failure: str, lighthouse, group, caplog) -> None:
    """Nobody takes back what the other worker may have committed. Both connect again, and their next round succeeds at
    once."""
    address, both_left = lighthouse(2), threading.Barrier(2, timeout=SECONDS)

    def work(worker: int) -> list[object]:
        transport = connect(worker, address, least=2, group=group)

        def swap_and_fail(swap: Callable[..., None], *args) -> None:
            swap(*args)
            FAILURES[failure](transport)

        try:
            first = transport.open(1)
            if worker == 1:
                at_the_votes(transport, first, swap_and_fail)
            answers: list[object] = [first.vote(True)]
            before = transport.group.configurations
            answers.append(transport.group.connected)
            answers.append(transport.open(2).vote(True))
            return [*answers, transport.group.configurations - before]
        finally:
            both_left.wait()
            transport.close()

    with caplog.at_level(logging.WARNING, "muloco"):
        assert in_threads(2, work) == [[True, True, True, 1], [True, False, True, 1]]
    said = [record.getMessage() for record in caplog.records if record.name.startswith("muloco")]
    reason = "a rank is gone" if failure == "of another rank" else "this worker was cut off"
    assert said == [f"sync after step 1: committed, but connections failed: {reason}"]


def test_what_is_no_vote_on_this_round_is_not_taken_for_one(lighthouse, group) -> None:
    """The members count their rounds differently, so that they vote on different ones: neither is committed."""

    def ahead(transport: TorchftTransport, this_round: TorchftRound) -> bool:
        transport._rounds += 1
        return this_round.vote(True)

    assert vote_of_two(lighthouse(2), group, {0: lambda _, one_round: one_round.vote(True), 1: ahead}) == [
        False,
        False,
    ]


def test_a_quorum_that_does_not_come_is_an_error_that_says_so(lighthouse) -> None:
    transport = connect(0, lighthouse(2), least=2, quorum_seconds=1)
    with pytest.raises(TransportError, match="sync after step 7: no quorum of 2 or more workers within 1 s"):
        transport.open(7)
    transport.close()


def test_a_store_whose_worker_has_gone_is_given_up_at_once() -> None:
    """torch would try to reach it until the timeout of the group."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    group = GlooGroup(timedelta(seconds=SECONDS))
    with pytest.raises(ConnectionError, match=rf"^the worker at {address} has gone: "):
        group.configure(f"{address}/prefix", "worker", 0, 2)
    assert not group.connected


def test_a_server_remembers_its_last_rounds_and_speaks_no_more_once_closed() -> None:
    server = PeerServer("127.0.0.1", KEY)
    for number in range(70):
        server.say(f"1-{number}", COMMITTED)
    assert ask(server.address, "1-69", key=KEY, seconds=SECONDS) == COMMITTED
    assert ask(server.address, "1-0", key=KEY, seconds=SECONDS) == FAILED, "forgotten"
    server.close()
    assert ask(server.address, "1-69", key=KEY, seconds=SECONDS) is None


@pytest.mark.parametrize(
    "request_line", [b"GET / HTTP/1.0", b"GET /round/ HTTP/1.0", b"GET /state HTTP/1.0", b"nonsense"]
)
def test_a_request_of_a_stranger_leaves_no_traceback(request_line: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    server = PeerServer("127.0.0.1", KEY)
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as stranger:
        stranger.sendall(request_line + b"\r\n\r\n")
        answer = stranger.recv(1000)
    assert answer == b"" or answer.startswith(b"HTTP/1.0 403 ")
    server.begin_vote("1")
    assert ask(server.address, "1", key=KEY, seconds=10) == VOTING
    server.close()
    assert "Traceback" not in capfd.readouterr().err


def test_a_member_that_is_lost_between_two_chunks(lighthouse, group, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came before does not make up for what does not come any more."""
    monkeypatch.setattr(torchft_round, "CHUNK_BYTES", 4)
    data = torch.arange(12, dtype=torch.uint8)

    def stays(transport: TorchftTransport, this_round: TorchftRound) -> bool:
        with pytest.raises(TransportError, match="lost contact with another worker"):
            this_round.exchange([data, data], [12, 12])
        return this_round.vote(False)

    def is_lost(transport: TorchftTransport, this_round: TorchftRound) -> bool:
        with pytest.raises(TransportError, match="this worker was cut off"):
            swap = transport.group.swap

            def twice(*args) -> None:
                swap(*args)
                transport.group.swap = last

            def last(*args) -> None:
                swap(*args)
                transport.cut()

            transport.group.swap = twice
            this_round.exchange([data, data], [12, 12])
        return this_round.vote(False)

    assert vote_of_two(lighthouse(2), group, {0: stays, 1: is_lost}) == [False, False]
