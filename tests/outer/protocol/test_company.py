"""The members of a round that belong to the run, its leaders, and the reasons why others have to stop."""

import itertools
import json
from dataclasses import replace

import pytest

from muloco.outer import ForeignRun
from muloco.outer.protocol.company import Stranger, company_of, find_leaders, too_far_ahead
from muloco.outer.protocol.header import PROTOCOL, Header, Unreadable, read_header
from muloco.outer.protocol.terms import Terms

WINDOW = 2
TERMS = Terms(
    workers=3, sync_interval=WINDOW, fragments=2, layout="a", settings=(("compression.kind", "none"), ("bits", None))
)
OTHER = replace(TERMS, layout="b", settings=(("compression.kind", "bf16"), ("bits", None)))
OWN = Header(
    run="r",
    worker=0,
    terms=TERMS,
    step=4,
    fragment=0,
    weight=2,
    finite=True,
    digest=1,
    data_position="",
    commit_hash="h",
)


def newcomer(header: Header) -> Header:
    return replace(header, step=0, fragment=None, weight=0, commit_hash="")


def leaders_as_stated(headers: list[Header], workers: int) -> list[int]:
    """The rule, member by member and set by set."""
    everyone = range(len(headers))

    def majority(ranks: tuple[int, ...]) -> bool:
        alike = {(headers[r].step, headers[r].commit_hash, headers[r].sends) for r in ranks}
        return 2 * len(ranks) > workers and len(alike) == 1 and alike.pop()[2]

    majorities = [s for n in range(1, len(headers) + 1) for s in itertools.combinations(everyone, n) if majority(s)]
    believed = [r for r in everyone if all(headers[r].step <= headers[s[0]].step + WINDOW for s in majorities)]
    there = [
        r
        for r in believed
        if not any(
            headers[o].step > headers[r].step
            or (headers[o].step == headers[r].step and headers[o].sends > headers[r].sends)
            for o in believed
        )
    ]
    groups = [[o for o in there if headers[o].commit_hash == headers[r].commit_hash] for r in there]
    most = max(len(group) for group in groups)
    return next(group for group in groups if len(group) == most)


@pytest.mark.parametrize(("workers", "members"), [(1, 1), (2, 2), (3, 2), (3, 3), (4, 2), (4, 3), (5, 3), (4, 4)])
def test_who_leads(workers: int, members: int) -> None:
    """All rounds of few members, at steps within a window of each other and more than one apart."""
    steps = (0, 2, 3) if members == 4 else (0, 1, 2, 3, 4, 5)
    terms = replace(TERMS, workers=workers)
    kinds = [
        replace(OWN, terms=terms, step=step, fragment=fragment, commit_hash=commit_hash)
        for step, fragment, commit_hash in itertools.product(steps, (None, 0), "hi")
    ]
    for chosen in itertools.product(kinds, repeat=members):
        headers = [replace(header, worker=worker) for worker, header in enumerate(chosen)]
        assert find_leaders(headers) == leaders_as_stated(headers, workers), headers


def test_a_second_worker_of_one_number_makes_no_majority() -> None:
    far = replace(OWN, worker=1, step=100)
    assert too_far_ahead([OWN, replace(OWN, worker=2), far]) == [2]
    assert too_far_ahead([OWN, OWN, far]) == []


def members_of(kinds: str, states: tuple[str, ...]) -> list[Header | Unreadable]:
    """Members of the run (r), of one with other terms (o), of another version (v), and garbage (g); they send,
    have a history, or are new."""
    made: list[Header | Unreadable] = []
    for worker, (kind, state) in enumerate(zip(kinds, states, strict=True)):
        header = replace(OWN, worker=worker, terms=OTHER if kind == "o" else TERMS)
        if state != "sends":
            header = replace(newcomer(header), commit_hash="h" if state == "has history" else "")
        version = header.to_bytes().replace(b'"protocol": %d' % PROTOCOL, b'"protocol": %d' % (PROTOCOL + 1))
        made.append(header if kind in "ro" else read_header(version if kind == "v" else b"GET / HTTP/1.1"))
    return made


def stay(members: list[Header | Unreadable]) -> set[int]:
    """Ranks of those who do not stop by themselves."""
    left = set()
    for rank, member in enumerate(members):
        if isinstance(member, Header):
            try:
                assert company_of(members, rank) == members
                left.add(rank)
            except Stranger:
                left.add(rank)
            except ForeignRun:
                pass
    return left


@pytest.mark.parametrize("members", [1, 2, 3])
def test_who_has_to_stop(members: int) -> None:
    """All rounds of few members of four companies."""
    states = ("sends", "has history", "is new")
    for kinds in map("".join, itertools.product("rovg", repeat=members)):
        for chosen in itertools.product(states, repeat=members):
            what, left = (kinds, chosen), stay(members_of(kinds, chosen))

            def number(kind: str, *those: str, kinds=kinds, chosen=chosen) -> int:
                """Members of a company in one of these states. Nothing is known of the state of garbage."""
                pairs = zip(kinds, chosen, strict=True)
                return 0 if kind == "g" else sum(one == kind and state in those for one, state in pairs)

            readable = {rank for rank, kind in enumerate(kinds) if kind in "ro"}
            assert len({kinds[rank] for rank in left}) <= 1, (what, "one company stays")
            assert not {kinds[rank] for rank in left} & {kinds[rank] for rank in readable - left}, (what, "all of it")
            for rank in readable - left:
                own, others = kinds[rank], set(kinds) - {kinds[rank]}
                assert any(number(kind, "sends") >= number(own, "sends") for kind in others), what
                if chosen[rank] != "is new":
                    assert any(number(kind, "sends", "has history") for kind in others), (what, "not for newcomers")
            if not any(number(kind, "sends", "has history") for kind in kinds):
                most = max(kinds.count(kind) for kind in kinds)
                expected = next(kind for kind in kinds if kinds.count(kind) == most)
                assert left == {rank for rank in readable if kinds[rank] == expected}, what


@pytest.mark.parametrize(
    ("stranger", "words"),
    [
        (replace(OWN, worker=1, run="other"), ["run 'r'", "run 'other'"]),
        (replace(newcomer(OWN), worker=1, terms=OTHER), ["compression.kind=bf16, the run has none"]),
        (
            replace(newcomer(OWN), worker=1, terms=replace(OTHER, sync_interval=9, settings=(("new", 1),))),
            ["sync_steps=9, the run has 2", "compression.kind=nothing, the run has none", "new=1, the run has nothing"],
        ),
        (replace(newcomer(OWN), worker=1, terms=replace(TERMS, layout="b")), ["digest of the fragments=b"]),
        (replace(newcomer(OWN), worker=3), ["workers 0 to 2", "worker 3", "fault_tolerance.replica_id"]),
        (replace(OWN, worker=1, weight=3), ["window of 3", "1 to 2"]),
        (replace(OWN, worker=1, weight=0), ["window of 0"]),
        (replace(OWN, worker=1, weight=10**9), ["window of 1000000000"]),
        (replace(newcomer(OWN), worker=1, weight=1), ["window of 1 inner"]),
        (replace(OWN, worker=1, fragment=2), ["fragment 2", "2 fragments"]),
        (newcomer(OWN), ["worker 0 already"]),
        (replace(OWN, step=2), ["worker 0 already"]),
        (OWN, ["worker 0 already"]),
    ],
    ids=lambda value: "" if isinstance(value, Header) else value[0],
)
def test_a_stranger_stops_with_one_line_and_the_others_go_on(stranger: Header, words: list[str]) -> None:
    members = [OWN, stranger, replace(OWN, worker=2)]
    with pytest.raises(ForeignRun) as stopped:
        company_of(members, 1)
    assert "\n" not in str(stopped.value)
    for word in words:
        assert word in str(stopped.value)
    for rank in (0, 2):
        with pytest.raises(Stranger):
            company_of(members, rank)


@pytest.mark.parametrize(
    "data", [b"\0", OWN.to_bytes().replace(b'"protocol": %d' % PROTOCOL, b'"protocol": 99'), b"{}"]
)
def test_a_worker_that_nobody_understands_stops_if_it_is_new(data: bytes) -> None:
    other = read_header(data)
    with pytest.raises(ForeignRun):
        company_of([other, other, newcomer(replace(OWN, worker=2))], 2)
    with pytest.raises(Stranger):
        company_of([read_header(b"\0"), read_header(b"\0"), replace(OWN, worker=2)], 2)


def test_terms_survive_their_journey() -> None:
    assert Terms.from_json(json.loads(json.dumps(OTHER.to_json()))) == OTHER
    assert TERMS.differences(OTHER) == {"compression.kind": ("none", "bf16")}
