"""Messages, votes and seals of a round over torchft count only with the tag of their group, round, place and member."""

import hashlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import torch

from muloco.outer.protocol.authentication import Key
from muloco.outer.protocol.exchange import gather_bytes
from muloco.outer.protocol.peer_round import PeerRound
from muloco.outer.protocol.seal import SecretHash
from muloco.outer.protocol.staging import Staging
from muloco.outer.protocol.transport import Unverified

from ..over_torchft import KEY

NAME, CPU = "group-7", torch.device("cpu")
SAID = b"what member 1 says"


def round_of_three(key: Key = KEY, name: str = NAME, rank: int = 0, answers: Sequence[list[bytes]] = ()) -> PeerRound:
    """A round in which the next exchanges bring these bytes."""
    left = iter(answers)

    def swap(received: torch.Tensor, sizes: list[int], sent: list[torch.Tensor], meanwhile: Callable[[], None]) -> None:
        came = b"".join(data for r, data in enumerate(next(left)) if r != rank)
        assert len(came) == received.numel()
        received.copy_(torch.frombuffer(bytearray(came), dtype=torch.uint8))
        meanwhile()

    group = SimpleNamespace(
        place=rank,
        size=3,
        workers=(0, 1, 2),
        strangers=(),
        admission=SimpleNamespace(key=key),
        call=lambda member: f"worker {member}",
    )
    transport = SimpleNamespace(
        wire=SimpleNamespace(connected=True, swap=swap),
        group=group,
        device=CPU,
        staging=Staging(CPU, CPU),
        round_name=name,
        peers=[],
        secret_hash=SecretHash(key),
    )
    return PeerRound(transport, step=3, failure=None)  # type: ignore[arg-type]


def ahead(data: bytes, rank: int, *, number: int = 0, key: Key = KEY, name: str = NAME, by: int | None = None) -> bytes:
    """Returns the bytes that are sent before a message."""
    said = len(data).to_bytes(8, "big") + hashlib.sha256(data).digest()
    return said + round_of_three(key, name).tag(rank if by is None else by, number, said)


RIGHT = ahead(SAID, 1)
WRONG = {
    "of another member": ahead(SAID, 1, by=2),
    "of another message of the round": ahead(SAID, 1, number=2),
    "of an earlier round": ahead(SAID, 1, name="group-6"),
    "of another group": ahead(SAID, 1, key=KEY.derive("another group")),
    "over another text": ahead(b"What member 1 says", 1)[:40] + RIGHT[40:],
    "over another length": (len(SAID) + 1).to_bytes(8, "big") + RIGHT[8:],
    "without its end": RIGHT[:-1] + b"\0",
    "without a key": RIGHT[:40] + bytes(32),
}


def test_a_message_with_its_tag_is_heard() -> None:
    first, last = ahead(b"0", 0), ahead(b"2", 2)
    this_round = round_of_three(answers=[[first, RIGHT, last], [b"0", SAID, b"2"]])
    assert gather_bytes(this_round, b"0") == [b"0", SAID, b"2"]


@pytest.mark.parametrize("what", WRONG)
def test_a_message_with_a_wrong_tag_is_refused(what: str) -> None:
    """Before its length is relied on; the error knows who it is."""
    this_round = round_of_three(answers=[[ahead(b"0", 0), WRONG[what], ahead(b"2", 2)]])
    with pytest.raises(Unverified, match=r"^worker 1 sent a message without the tag of the run") as caught:
        gather_bytes(this_round, b"0")
    assert caught.value.ranks == (1,)


@pytest.mark.parametrize("came", [b"What member 1 says", bytes(len(SAID))])
def test_another_message_than_the_announced_one_is_refused(came: bytes) -> None:
    answers = [[ahead(b"0", 0), RIGHT, ahead(b"2", 2)], [b"0", came, b"2"]]
    with pytest.raises(Unverified, match=r"^worker 1 sent a message that arrived damaged$") as caught:
        gather_bytes(round_of_three(answers=answers), b"0")
    assert caught.value.ranks == (1,)


def vote(rank: int, *, purpose: str = "vote", name: str = NAME, key: Key = KEY) -> bytes:
    return key.tag(purpose, name, rank)


@pytest.mark.parametrize(
    ("second", "counts"),
    [
        (vote(2), True),
        (vote(1), False),
        (vote(2, name="group-6"), False),
        (vote(2, key=KEY.derive("another group")), False),
        (vote(2, purpose="seal"), False),
        (bytes(32), False),
    ],
)
def test_a_vote_counts_with_its_own_tag_only(second: bytes, counts: bool) -> None:
    this_round = round_of_three(answers=[[vote(0), vote(1), second]])
    if counts:
        this_round._exchange_votes(NAME)
        return
    with pytest.raises(Unverified, match="worker 2 sent bytes that are not a vote on this round") as caught:
        this_round._exchange_votes(NAME)
    assert caught.value.ranks == (2,)


def test_seals_are_of_one_sender_and_one_receiver() -> None:
    """All members send the same; a seal for another receiver, or of another sender, is none. Of three rounds each one
    sees what the others have sent."""
    parts, tags = [b"x" * 40] * 3, {}
    for rank in range(3):
        sent: list[list[bytes]] = []
        this_round = round_of_three(rank=rank, answers=[parts])
        this_round.exchange([torch.frombuffer(bytearray(parts[0]), dtype=torch.uint8)] * 3, [40] * 3)

        def record(outgoing: list[bytes], sent=sent, rank=rank) -> list[bytes]:
            sent.append(outgoing)
            raise Unverified("", [rank])

        this_round._exchange_tags = record  # type: ignore[method-assign]
        with pytest.raises(Unverified):
            this_round._compare_seals(NAME)
        tags[rank] = sent[0]

    def compared(first: bytes, second: bytes) -> tuple[int, ...]:
        this_round = round_of_three(answers=[parts, [bytes(32), first, second]])
        this_round.exchange([torch.frombuffer(bytearray(parts[0]), dtype=torch.uint8)] * 3, [40] * 3)
        try:
            this_round._compare_seals(NAME)
        except Unverified as error:
            return error.ranks
        return ()

    assert compared(tags[1][0], tags[2][0]) == ()
    assert compared(tags[2][0], tags[1][0]) == (1, 2)
    assert compared(tags[1][2], tags[2][0]) == (1,)
    assert compared(tags[1][0], tags[0][2]) == (2,)


class Copies(Staging):
    """As on an accelerator with a group that sends from host memory."""

    def to_wire(self, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [part.clone() for part in parts]

    def from_wire(self, data: torch.Tensor, device: torch.device) -> torch.Tensor:
        return data.clone()


def test_seals_are_made_of_the_memory_of_the_group() -> None:
    """So that workers with accelerators and workers without one use the same hash."""
    this_round, hashed, seen = round_of_three(answers=[[b"x" * 40] * 3] * 2), set(), []
    swap = this_round._transport.wire.swap

    def watched(received: torch.Tensor, sizes: list[int], sent: list[torch.Tensor], meanwhile) -> None:
        seen.extend([received, *sent])
        swap(received, sizes, sent, meanwhile)

    def record(data: torch.Tensor) -> torch.Tensor:
        hashed.add(data.untyped_storage().data_ptr())
        return torch.zeros(2, dtype=torch.int64)

    this_round._transport.wire.swap = watched  # type: ignore[method-assign]
    this_round._transport.secret_hash = SimpleNamespace(of=record)  # type: ignore[assignment]
    this_round._transport.staging = Copies(CPU, CPU)
    payload = [torch.frombuffer(bytearray(b"x" * 40), dtype=torch.uint8)] * 3
    for _ in range(2):
        this_round.exchange(payload, [40] * 3)
    this_round._seal(())
    assert hashed == {data.untyped_storage().data_ptr() for data in seen if data.numel()}
