"""The rules of torchft's lighthouse (src/lighthouse.rs, quorum_compute and _quorum_tick), case by case."""

import pytest

from tests.simulation.lighthouse import Lighthouse, Member, State
from tests.simulation.network import Network
from tests.simulation.world import Process, World


def _members(names: str) -> tuple[Member, ...]:
    return tuple(Member(name, f"{name}:1") for name in names)


@pytest.mark.parametrize(
    ("asking", "beats", "previous", "least", "met"),
    [
        ("", "", None, 1, None),
        ("a", "a", None, 1, "a"),
        ("ba", "ab", None, 1, "ab"),  # in the order of their names
        ("a", "ab", None, 1, None),  # half of those that live is not enough
        ("ab", "abc", None, 1, None),  # c lives, and may come
        ("ab", "abx", None, 1, "ab"),  # x (silent for longer than the timeout) is dead
        ("ab", "ab", None, 3, None),  # too few
        ("ab", "abc", "ab", 1, "ab"),  # all members of the last quorum ask again: nobody else is waited for
        ("abc", "abc", "ab", 1, "abc"),  # ... but who asks is taken in
        ("ab", "ab", "abx", 1, "ab"),  # a member has died
        ("ab", "abc", "abc", 1, None),
        ("a", "a", "a", 2, "a"),  # the same members need not be enough
        ("x", "x", None, 1, None),  # who asks and has died since does not count
    ],
)
def test_who_meets(asking, beats, previous, least, met) -> None:
    state = State(least=least, join_timeout=10.0, beat_timeout=3.0)
    state.previous = None if previous is None else _members(previous)
    state.asking = {member.replica: (100.0, member) for member in _members(asking)}
    last = {name: 96.9 if name == "x" else 99.0 for name in beats}
    found = state.compute(100.0, last)
    assert found == (None if met is None else _members(met))


@pytest.mark.parametrize(("waited", "met"), [(9.9, None), (10.0, "ab")])
def test_who_only_lives_is_not_waited_for_longer_than_the_join_timeout(waited, met) -> None:
    state = State(least=1, join_timeout=10.0, beat_timeout=3.0)
    state.asking = {"a": (100.0 - waited, Member("a", "")), "b": (100.0, Member("b", ""))}
    found = state.compute(100.0, dict.fromkeys("abc", 100.0))
    assert (found and "".join(member.replica for member in found)) == met


def test_the_number_rises_with_other_members_and_after_a_failure() -> None:
    state = State(least=1, join_timeout=10.0, beat_timeout=3.0)
    numbers = []
    for names, failures in (("a", 0), ("a", 0), ("ab", 0), ("ab", 1), ("ab", 0), ("b", 0)):
        state.asking = {name: (0.0, Member(name, "", failures)) for name in names}
        met = state.decide(0.0, dict.fromkeys(names, 0.0))
        assert met is not None and not state.asking
        numbers.append(met.number)
    assert numbers == [1, 1, 2, 3, 3, 4]


def _at_a_lighthouse() -> tuple[World, Lighthouse, list[Process], list[tuple[object, ...]]]:
    """Two processes that ask again and again; and when they have met as whom."""
    world = World(5, seconds=60.0)
    network = Network(world)
    lighthouse = Lighthouse(network, least=1, join_timeout=20.0, beat_timeout=3.0)
    processes = [Process(world, name, f"m{number}") for number, name in enumerate("ab")]
    seen: list[tuple[object, ...]] = []

    def ask(process: Process) -> None:
        lighthouse.register(process, process.name)
        while True:
            try:
                met = lighthouse.ask(process, Member(process.name, f"{process.machine}:1"), 30.0)
                seen.append((round(world.now), process.name, "".join(m.replica for m in met.members), met.number))
            except TimeoutError:
                seen.append((round(world.now), process.name, "none"))
            world.sleep(5.0)

    for process in processes:
        world.spawn(process, lambda process=process: ask(process))
    return world, lighthouse, processes, seen


def test_the_survivor_of_two_meets_itself_once_the_other_is_silent() -> None:
    world, _, processes, seen = _at_a_lighthouse()
    world.at(6.0, processes[1].kill)
    world.run()
    alone = [said for said in seen if said[2] == "a" and said[0] > 6]
    assert alone[0][0] in (9, 10, 11) and {said[3] for said in alone} == {alone[0][3]}


def test_the_last_sign_of_life_counts() -> None:
    """The lighthouse looks when a replica may have fallen silent, and again if it was heard since."""
    world = World(5, seconds=60.0)
    lighthouse = Lighthouse(Network(world), least=1, join_timeout=20.0, beat_timeout=3.0)
    processes = {name: Process(world, name, name) for name in "ab"}
    seen = []

    def ask(name: str) -> None:
        lighthouse.register(processes[name], name)
        lighthouse.ask(processes[name], Member(name, f"{name}:1"), 30.0)
        seen.append((name, round(world.now)))

    world.at(0.50, lambda: world.spawn(processes["a"], lambda: ask("a")))
    world.at(0.55, lambda: world.spawn(processes["b"], lambda: ask("b")))
    world.at(1.80, processes["a"].kill)
    world.run()
    assert seen == [("a", 1), ("b", 5)]


def test_a_paused_process_is_silent_and_comes_back() -> None:
    world, _, processes, seen = _at_a_lighthouse()
    world.at(6.0, processes[1].pause)
    world.at(40.0, processes[1].resume)
    world.run()
    assert any(said[2] == "a" and 8 <= said[0] <= 40 for said in seen)
    assert seen[-1][2] == "ab" and not any(said[1] == "b" and 7 < said[0] < 40 for said in seen)


def test_a_restarted_lighthouse_counts_from_1() -> None:
    world, lighthouse, _, seen = _at_a_lighthouse()
    world.at(22.0, lambda: lighthouse.restart(4.0))
    world.run()
    before, after = [s for s in seen if s[0] < 22], [s for s in seen if s[0] >= 26]
    assert before and after and after[0][3] == 1 and after[-1][2] == "ab"
    assert not [s for s in seen if 22 < s[0] < 26]


def test_nobody_meets_at_a_lighthouse_that_is_cut_off() -> None:
    world, lighthouse, _, seen = _at_a_lighthouse()
    lighthouse.network.cut("lighthouse", "m1", 25.0)
    world.run()
    assert not any(said[1] == "b" and said[2] != "none" for said in seen if said[0] < 25)
    assert seen[-1][2] == "ab"
