"""Tags and keys, and who is let into a group by them."""

import hashlib
import hmac
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from torch.distributed import HashStore, PrefixStore, Store

from muloco.outer import TransportError
from muloco.outer.protocol.admission import Admission, admit
from muloco.outer.protocol.authentication import Key
from muloco.outer.protocol.header import PROTOCOL

from ..over_torchft import KEY, in_threads

OTHER = Key(b"another secret than that of the run")
LONG, SHORT = timedelta(seconds=30), timedelta(seconds=0.3)


def test_a_tag_is_the_hmac_of_kinds_lengths_and_contents() -> None:
    def field(kind: bytes, content: bytes) -> bytes:
        return kind + len(content).to_bytes(8, "big") + content

    message = field(b"s", b"vote") + field(b"i", b"-7") + field(b"b", b"\0\xff") + field(b"s", "\u00e9".encode())
    secret = b"sixteen bytes at least"
    expected = hmac.new(secret, message, hashlib.sha256).digest()
    assert Key(secret).tag("vote", -7, b"\0\xff", "\u00e9") == expected
    assert Key(secret).tag("vote", -7, memoryview(b"\0\xff"), "\u00e9") == expected


def test_what_differs_has_another_tag() -> None:
    said: list[tuple] = [
        *(("a",), ("a", ""), ("a", b""), ("", "a"), ("a", "b"), ("ab",), ("a", b"b"), ("a", "b", "c"), ("a", "bc")),
        *(("a", 1), ("a", "1"), ("a", b"1"), ("a", 11), ("a", 1, 1), ("a", -1), ("a", b"s\0\0\0\0\0\0\0\0")),
    ]
    tags = {KEY.tag(*words) for words in said} | {OTHER.tag(*words) for words in said}
    tags |= {KEY.derive(*words).tag("a") for words in said}
    assert len(tags) == 3 * len(said)


def test_pieces_of_a_body_count_as_one() -> None:
    whole, pieces = KEY.begin("body", b"nonce"), KEY.begin("body", b"nonce")
    whole.update(b"in pieces")
    pieces.update(b"in ")
    pieces.update(b"pieces")
    assert whole.digest() == pieces.digest() != KEY.tag("body", b"nonce", b"in pieces")


def test_a_tag_with_a_changed_bit_or_of_another_length_is_none() -> None:
    tag = KEY.tag("a", "b")
    assert KEY.holds(tag, "a", "b")
    for bit in range(8 * len(tag)):
        changed = (int.from_bytes(tag, "big") ^ 1 << bit).to_bytes(32, "big")
        assert not KEY.holds(changed, "a", "b")
    assert not any(KEY.holds(wrong, "a", "b") for wrong in (b"", tag[:-1], tag + b"\0", tag.hex().encode()))


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 bytes; got 15"):
        Key(b"x" * 15)


Member = Callable[[Store, int, int], Admission | str]


def member(key: Key = KEY, patience: timedelta = LONG) -> Member:
    def meet(store: Store, rank: int, size: int) -> Admission | str:
        try:
            return admit(store, key, rank, size, patience)
        except TransportError as error:
            return str(error)

    return meet


def meeting(*members: Member, store: Store | None = None) -> list[Admission | str]:
    """Returns the results of `admit` for members of a quorum that share a store."""
    store = HashStore() if store is None else store
    return in_threads(len(members), lambda rank: members[rank](store, rank, len(members)))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_all_who_have_the_secret_are_let_in(size: int) -> None:
    admissions = meeting(*[member()] * size)
    for admission in admissions:
        assert isinstance(admission, Admission) and admission.admitted == tuple(range(size))
        assert admission.strangers == admission.silent == ()
    assert len({(a.name, a.key.tag("test")) for a in admissions if isinstance(a, Admission)}) == 1


def test_each_meeting_has_a_key_of_its_own() -> None:
    names = [meeting(member(), member())[0] for _ in range(3)]
    assert len({admission.key.tag("test") for admission in names if isinstance(admission, Admission)}) == 3


def says(proof: Callable[[Store, int, int], str]) -> Member:
    """A member without the secret, which draws its bytes and then writes this."""

    def meet(store: Store, rank: int, size: int) -> str:
        store.set(f"nonce/{rank}", "00" * 16)
        store.set(f"proof/{rank}", proof(store, rank, size))
        return ""

    return meet


def of_another(store: Store, rank: int, size: int) -> str:
    store.wait([f"proof/{1 - rank}"])
    return store.get(f"proof/{1 - rank}").decode()


def of_version(version: int) -> Member:
    """Holds the secret."""

    def meet(store: Store, rank: int, size: int) -> str:
        store.set(f"nonce/{rank}", "00" * 16)
        store.wait([f"nonce/{member}" for member in range(size)], LONG)
        seen = KEY.tag("seen", *(store.get(f"nonce/{member}") for member in range(size)))
        store.set(f"proof/{rank}", f"{version} {(seen + KEY.tag('admission', version, rank, seen)).hex()}")
        return ""

    return meet


LIES: dict[str, Member] = {
    "another secret": member(OTHER),
    "nothing": says(lambda *_: ""),
    "noise": says(lambda *_: "\u00e9" * 99),
    "half": says(lambda *_: f"{PROTOCOL} {'00' * 32}"),
    "zeros": says(lambda *_: f"{PROTOCOL} {'00' * 64}"),
    "no version": says(lambda *_: "00" * 64),
    "another version": of_version(PROTOCOL + 1),
    "the proof of another member": says(of_another),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_stranger_is_left_out(lie: str) -> None:
    """It is the second of four; the first and the last two go on with a key that it cannot make."""
    first, stranger, *others = meeting(member(patience=SHORT), LIES[lie], *[member(patience=SHORT)] * 2)
    for admission in (first, *others):
        assert isinstance(admission, Admission) and isinstance(first, Admission)
        assert admission.admitted == (0, 2, 3) and admission.key.tag("test") == first.key.tag("test")
        assert sorted(admission.strangers + admission.silent) == [1]
    if isinstance(stranger, Admission):
        assert stranger.admitted == (1,) and sorted(stranger.strangers) == [0, 2, 3]


def test_a_stranger_with_the_secret_is_known_by_its_version() -> None:
    for version in (0, PROTOCOL, PROTOCOL + 1):
        found, _ = meeting(member(), of_version(version))
        assert isinstance(found, Admission)
        if version == PROTOCOL:
            assert (found.admitted, found.strangers, found.versions) == ((0, 1), (), {})
        else:
            assert (found.admitted, found.strangers, found.versions) == ((0,), (1,), {1: version})


def test_one_that_says_nothing_is_left_out() -> None:
    admissions = meeting(member(patience=SHORT), lambda *_: "", member(patience=SHORT))
    for admission in (admissions[0], admissions[2]):
        assert isinstance(admission, Admission)
        assert (admission.admitted, admission.strangers, admission.silent) == ((0, 2), (), (1,))


def test_one_that_comes_too_late_does_not_go_on_alone() -> None:
    """The others have left it out; it is no stranger to them, and they are none to it."""
    store, done = HashStore(), threading.Event()

    def late(store: Store, rank: int, size: int) -> Admission | str:
        assert done.wait(30)
        return member()(store, rank, size)

    def early(store: Store, rank: int, size: int) -> Admission | str:
        admission = member(patience=SHORT)(store, rank, size)
        done.set()
        return admission

    admission, said = meeting(early, late, store=store)
    assert isinstance(admission, Admission) and admission.silent == (1,)
    assert said == "member 0 of 2 has met different members than this worker has"


def test_what_was_said_in_another_meeting_does_not_count() -> None:
    """A stranger repeats what a member wrote, with its rank: it had other members before it."""
    before = HashStore()
    meeting(member(), member(), store=before)

    def repeats(store: Store, rank: int, size: int) -> str:
        for kind in ("nonce", "proof"):
            store.set(f"{kind}/{rank}", before.get(f"{kind}/{rank}").decode())
        return ""

    said, _ = meeting(member(), repeats)
    assert said == "member 1 of 2 has met different members than this worker has"


@pytest.mark.parametrize("kind", ["nonce", "proof"])
def test_who_is_overwritten_notices_it(kind: str) -> None:
    """Somebody who can write the store puts there what was said in an earlier meeting of the same members: with the
    same bytes they would have the same key again."""
    before = HashStore()
    meeting(member(), member(), store=before)

    class Overwriting(PrefixStore):
        def set(self, key: str, value: str) -> None:
            super().set(key, before.get(key).decode() if key.startswith(kind) else value)

    said = meeting(member(), member(), store=Overwriting("group", HashStore()))
    assert all(isinstance(what, str) and "has" in what for what in said), said


def test_members_that_see_different_ones_do_not_share_a_key() -> None:
    """Somebody who can write the store shows one member another nonce than the other one sees."""
    shared = HashStore()

    class Split(PrefixStore):
        def multi_get(self, keys: list[str]) -> list[bytes]:
            found = super().multi_get(keys)
            return [b"00" * 16 if key == "nonce/1" else value for key, value in zip(keys, found, strict=True)]

    stores: list[Store] = [Split("group", shared), PrefixStore("group", shared)]
    told = in_threads(2, lambda rank: member()(stores[rank], rank, 2))
    assert all(isinstance(said, str) and "has met different members" in said for said in told), told
