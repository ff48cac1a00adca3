"""Bytes that no worker has sent are refused, as after the loss of a worker."""

import json
import math
import os
import random
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torchft.process_group import ProcessGroupWrapper

from muloco.outer import TransportError
from muloco.outer.codecs.channel import Channel
from muloco.outer.codecs.compression import Compression
from muloco.outer.protocol.answers import COMMITTED
from muloco.outer.protocol.exchange import MESSAGE_BYTES, average, gather_bytes
from muloco.outer.protocol.header import PROTOCOL, Header, Unreadable, read_header
from muloco.outer.protocol.peer_transport import _introduction
from muloco.outer.protocol.terms import Terms
from muloco.outer.protocol.transaction import ATTEMPTS, agree
from muloco.outer.system_clock import SystemClock
from muloco.outer.wire.http import TAG
from muloco.outer.wire.peer_group import NCCLGroup
from muloco.outer.wire.store import loopback_store

from ..over_torchft import KEY
from ..peer_server import PeerServer, ask, fetch
from .test_compressed_rounds import CODECS, UNEVEN

OWN = Header(
    run="run",
    worker=0,
    terms=Terms(workers=3, sync_interval=3, layout="0123", settings=(("compression.kind", "bf16"), ("bits", None))),
    step=7,
    fragment=0,
    weight=3,
    finite=True,
    digest=-5,
    data_position='{"at": 1}',
    commit_hash="0" * 16,
)
ELEMENTS = sum(map(math.prod, UNEVEN.values()))


class Garbled:
    """A round of three members of which the other two say what this one says, but for the exchanges from `first` on:
    what comes then is random."""

    rank, size, bytes_sent, name, strangers = 0, 3, 0, "1", ()
    device = wire = torch.device("cpu")

    def __init__(self, draw: random.Random, first: int, last: int = 99):
        self._draw, self._spoiled, self.exchanges = draw, range(first, last + 1), 0

    def exchange(self, outgoing: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        spoiled, self.exchanges = self.exchanges in self._spoiled, self.exchanges + 1
        assert all(0 <= size <= MESSAGE_BYTES for size in sizes)
        if not spoiled:
            return [outgoing[0]] * 3
        return [outgoing[0], *(as_tensor(self._draw.randbytes(size)) for size in sizes[1:])]

    def tag(self, rank: int, number: int, data: bytes) -> bytes:
        return KEY.tag("message", number, data)  # the same of all members

    def call(self, rank: int) -> str:
        return f"member {rank}"

    def vote(self, ok: bool) -> bool:
        return ok


def as_tensor(data: bytes) -> torch.Tensor:
    return torch.tensor(list(data), dtype=torch.uint8)


@pytest.mark.parametrize(("first", "last"), [(0, 0), (1, 1), (0, 1)])
def test_random_bytes_are_no_message(first: int, last: int) -> None:
    draw = random.Random(first + 2 * last)
    for _ in range(200):
        with pytest.raises(TransportError, match="member 1 sent a message .*arrived damaged; member 2"):
            gather_bytes(Garbled(draw, first, last), draw.randbytes(draw.randint(1, 50)))


@pytest.mark.parametrize("length", [0, MESSAGE_BYTES + 1, 2**62, 2**64 - 1])
def test_no_memory_is_taken_for_a_length_that_cannot_be(length: int) -> None:
    class Liar(Garbled):
        def exchange(self, outgoing, sizes) -> list[torch.Tensor]:
            assert self.exchanges == 0, "it goes no further"
            self.exchanges += 1
            said = length.to_bytes(8, "big") + bytes(32)
            return [outgoing[0], outgoing[0], as_tensor(said + self.tag(2, 0, said))]

    with pytest.raises(TransportError, match=rf"member 2 announced a message of {length} bytes, not of 1 to 16777216"):
        gather_bytes(Liar(random.Random(0), 99), b"abc")


@pytest.mark.parametrize("length", [0, MESSAGE_BYTES + 1])
def test_a_message_that_cannot_travel_is_not_sent(length: int) -> None:
    with pytest.raises(ValueError, match=f"1 to {MESSAGE_BYTES} bytes; got {length}"):
        gather_bytes(Garbled(random.Random(0), 99), bytes(length))


def test_a_header_survives_its_journey() -> None:
    assert read_header(OWN.to_bytes()) == OWN


def changed(**fields: object) -> bytes:
    return json.dumps(json.loads(OWN.to_bytes()) | fields).encode()


def changed_terms(**fields: object) -> bytes:
    return changed(terms=OWN.terms.to_json() | fields)


@pytest.mark.parametrize("data", [changed(new=1, newer={"a": []}), changed_terms(new=1)])
def test_a_field_that_is_not_known_is_ignored(data: bytes) -> None:
    assert read_header(data) == OWN


OPTIONAL = {"waits"}
"""Fields that earlier releases with the same version of the protocol do not send."""


@pytest.mark.parametrize(
    "without",
    [
        *(name for name in json.loads(OWN.to_bytes()) if name not in OPTIONAL),
        *(f"terms.{name}" for name in OWN.terms.to_json()),
    ],
)
def test_a_field_that_is_missing_is_noticed(without: str) -> None:
    values = json.loads(OWN.to_bytes())
    part, _, name = without.rpartition(".")
    del (values[part] if part else values)[name]
    assert isinstance(read_header(json.dumps(values).encode()), Unreadable)


@pytest.mark.parametrize(
    ("changes", "sends", "experienced"),
    [
        ({}, True, True),
        ({"fragment": -1}, False, True),
        ({"history": ""}, True, False),
        ({"fragment": []}, False, True),
    ],
)
def test_what_is_read_of_a_header_of_another_version(changes: dict, sends: bool, experienced: bool) -> None:
    data = changed(protocol=PROTOCOL + 1, **changes)
    expected = Unreadable(protocol=PROTOCOL + 1, sends=sends, experienced=experienced, text=repr(data[:80]))
    assert read_header(data) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"{}",
        b"[1]",
        b"3",
        b"null",
        b"[" * 100_000,
        b'{"worker": ' + b"9" * 5000 + b"}",
        changed(protocol=None),
        changed(protocol="1"),
        changed(protocol=True),
        changed(run=None),
        changed(worker=-1),
        changed(worker=True),
        changed(step=1.0),
        changed(step=-1),
        changed(fragment=-2),
        changed(weight=-1),
        changed(weight=2**63),
        changed(weight=float("nan")),
        changed(finite=1),
        changed(digest=2**63),
        changed(share={}),
        changed(history=5),
        changed(leaving="no"),
        changed(terms=None),
        changed_terms(workers=0),
        changed_terms(workers="3"),
        changed_terms(sync_interval=0),
        changed_terms(delay=-1),
        changed_terms(fragments=0),
        changed_terms(layout=3),
        changed_terms(settings=[]),
        changed_terms(settings={"a": [1]}),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_no_header(data: bytes) -> None:
    expected = Unreadable(protocol=None, sends=False, experienced=False, text=repr(data[:80]))
    assert read_header(data) == expected


def test_a_header_with_changed_bytes_is_one_or_none() -> None:
    draw, whole = random.Random(0), OWN.to_bytes()
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        header = read_header(bytes(data[: draw.randint(len(data) // 2, len(data))]))
        assert isinstance(header, Unreadable) or read_header(header.to_bytes()) == header


def test_what_is_no_address() -> None:
    assert _introduction(b"host-1.example:29510 7") == ("host-1.example:29510", 7)
    draw = random.Random(0)
    for data in (
        *(b"", b"host:1", b"host 0", b"host:1 ", b"host:1 0\n", b"host:1 -1", b"h st:1 0", b"host:1234567 0"),
    ):
        with pytest.raises(TransportError, match="not its address"):
            _introduction(data)
    for _ in range(500):
        with pytest.raises(TransportError, match="not its address"):
            _introduction(draw.randbytes(draw.randint(0, 60)))


@pytest.mark.parametrize("kind", CODECS)
def test_any_payload_decodes_to_a_piece(kind: str) -> None:
    """Bytes that no member sent are not decoded: on a GPU an index out of range would end the process."""
    draw, codec = random.Random(0), CODECS[kind]
    for shape in (*UNEVEN.values(), (1,), (1000,), (33, 31)):
        size = codec.payload_bytes(shape)
        for fill in (draw.randbytes(size), draw.randbytes(size), b"\xff" * size, b"\0" * size):
            decoded = codec.decode(as_tensor(fill), shape)
            assert decoded.shape == shape and decoded.dtype == torch.float32


@pytest.mark.parametrize("reduce", ["reselect", "gather", "requantize"])
@pytest.mark.parametrize("kind", CODECS)
def test_a_mean_of_garbage_is_only_wrong(kind: str, reduce: str) -> None:
    """Such a round is never committed, see also `test_fault_grid`."""
    channel = Channel(
        Compression(codec=CODECS[kind], reduce=reduce, error_feedback=True),
        {name: torch.empty(shape, device="meta") for name, shape in UNEVEN.items()},
    )
    draw = random.Random(0)
    for first in (0, 1):
        mean = average(Garbled(draw, first), torch.randn(ELEMENTS), channel.layout, [1, 2, 3], channel=channel)
        assert mean.shape == (ELEMENTS,)


def test_rounds_of_garbage_end_with_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether lengths or headers are garbage, each round fails as with a lost worker."""
    monkeypatch.setattr("muloco.outer.protocol.transaction.PAUSE_SECONDS", 0.0)
    tensors = {name: torch.empty(shape) for name, shape in UNEVEN.items()}
    channel = Channel(Compression(codec=CODECS["topk"]), tensors)
    for first in (0, 1):
        draw, opened = random.Random(first), []

        def open_round(step: int, draw=draw, first=first, opened=opened) -> Garbled:
            opened.append(Garbled(draw, first))
            return opened[-1]

        transport = SimpleNamespace(
            open=open_round, any_rank=bool, cut=lambda: None, clock=SystemClock(), device=torch.device("cpu")
        )
        with pytest.raises(TransportError, match=f"{ATTEMPTS} rounds failed one after the other"):
            agree(transport, OWN, torch.randn(ELEMENTS), lambda fragment: channel)
        assert len(opened) == ATTEMPTS


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Returns the address of a program that is not a worker and gives this answer to every request."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def answers() -> dict[str, bytes]:
    draw, ok = random.Random(0), b"HTTP/1.0 200 OK\r\n"
    return {
        "nothing": b"",
        "noise": draw.randbytes(2000),
        "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
        "no header": b"HTTP/1.0 200 OK",
        "long line": ok + b"A: " + b"b" * 100_000 + b"\r\n\r\n",
        "text": ok + b"Content-Length: 5\r\n\r\nhello",
        "committed, of another program": ok + b"Content-Length: 9\r\n\r\ncommitted",
        "wrong tag": ok + f"Content-Length: 41\r\n{TAG}: {bytes(32).hex()}\r\n\r\n".encode() + b"committed" + bytes(32),
        "half of it": ok + f"Content-Length: 900\r\n{TAG}: 1\r\n\r\n".encode() + b"comm",
        "no end": ok + b"Content-Length: 1000000000000000000\r\n\r\ncomm",
        "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "no length": ok + b"Content-Length: many\r\n\r\n\xff\xfe",
    }


@pytest.mark.parametrize("kind", answers())
def test_who_answers_at_the_address_of_a_worker_need_not_be_one(kind: str) -> None:
    with answering(answers()[kind]) as address:
        assert ask(address, "1", key=KEY, seconds=10) is None
        with pytest.raises(OSError):
            fetch(address, "1", key=KEY, patience=0, seconds=10)


@pytest.mark.parametrize("address", ["host:99999999", "host:x", "[:1", "a" * 300 + ":1", "%zz:1", "\udcff:1"])
def test_nobody_answers_at_what_is_no_address(address: str) -> None:
    assert ask(address, "1", key=KEY, seconds=1) is None
    with pytest.raises(OSError):
        fetch(address, "1", key=KEY, patience=0, seconds=1)


def test_a_worker_answers_to_the_bit() -> None:
    server, state = PeerServer("127.0.0.1", KEY), random.Random(0).randbytes(3 * 2**20 + 1)
    server.offer("1", state)
    server.say("1", COMMITTED)
    assert fetch(server.address, "1", key=KEY, patience=0, seconds=10) == state
    assert ask(server.address, "1", key=KEY, seconds=10) == COMMITTED
    server.close()


@pytest.mark.parametrize("before", [None, "3"])
def test_torch_leaves_a_failed_group_of_workers_to_torchft(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's handling would end the process of a surviving worker. Groups within a worker keep their setting."""
    name, seen = "TORCH_NCCL_ASYNC_ERROR_HANDLING", []
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)

    class WithoutDevice(NCCLGroup):
        def __init__(self) -> None:
            ProcessGroupWrapper.__init__(self)

        def _create_pg(self, store, rank: int, world_size: int) -> None:
            seen.append(os.environ.get(name))

    store = loopback_store()
    group = WithoutDevice()
    group.chooser = SimpleNamespace(stays_out=lambda quorum: False)  # type: ignore[assignment]
    group.configure(f"127.0.0.1:{store.port}/group", "run_000", 0, 1)
    assert seen == ["0"] and os.environ.get(name) == before
