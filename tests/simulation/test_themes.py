"""Themes: the engine stands what they do, and they show mistakes that single faults rarely show."""

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from muloco.outer.protocol.answers import Answers
from muloco.outer.protocol.membership import Membership
from muloco.outer.protocol.reachability import Reachability
from muloco.runs.commits import Progress
from tests.simulation import themes
from tests.simulation.fault import LIGHTHOUSE
from tests.simulation.faults import Schedule, draw
from tests.simulation.themes import THEMES, Theme
from tests.simulation.toy import Shape


def _schedules(theme: Theme, seeds: int) -> Iterator[Schedule]:
    for seed in range(seeds):
        random = Random(seed)
        shape, faults = theme(random, Shape(workers=3, interval=2, rounds=3))
        yield Schedule(seed, shape, tuple(faults))


@pytest.mark.parametrize("theme", THEMES)
def test_the_engine_stands_a_theme(theme: Theme) -> None:
    for schedule in _schedules(theme, 3):
        assert schedule.run().failure is None, schedule


@pytest.mark.parametrize("theme", THEMES)
def test_faults_of_a_theme_strike_workers_of_its_shape(theme: Theme) -> None:
    for schedule in _schedules(theme, 50):
        assert schedule.faults
        for fault in schedule.faults:
            assert 0 <= fault.worker < schedule.shape.workers
            assert fault.kind != "cut" or LIGHTHOUSE <= fault.other < schedule.shape.workers
            assert fault.kind != "cut" or fault.other != fault.worker


def test_some_schedules_have_a_theme(monkeypatch: pytest.MonkeyPatch) -> None:
    """And each theme is drawn."""
    drawn = []
    watched = [lambda random, shape, theme=theme: drawn.append(theme) or theme(random, shape) for theme in THEMES]
    monkeypatch.setattr("tests.simulation.faults.THEMES", watched)
    schedules = [draw(seed) for seed in range(400)]
    assert set(drawn) == set(THEMES) and len(drawn) < len(schedules)


def _logs_too_early(membership: Membership, step: int, fragment: int, *args: Any, agree=Membership.agree, **named: Any):
    membership.progress.record(step, fragment, membership.members)
    return agree(membership, step, fragment, *args, **named)


MISTAKES = {
    "workers do not know how far the run has come": (
        Progress,
        "reached",
        lambda progress: 0,
        themes.all_killed,
        "does not see that worker [0-9] has come further",
    ),
    "workers believe that they were left behind": (
        Progress,
        "passed",
        lambda progress, step, fragment: True,
        themes.one_way,
        "believes that it was left behind",
    ),
    "workers do not see that they were left behind": (
        Progress,
        "passed",
        lambda progress, step, fragment: False,
        themes.both_alone,
        "does not see that worker [0-9] has gone on",
    ),
    "workers hand on an older state": (
        Answers,
        "_state",
        lambda answers, name: answers._offer[1] or None,
        themes.joins,
        "a state that is not the one after the round",
    ),
    "workers log a round that is not committed": (
        Membership,
        "agree",
        _logs_too_early,
        themes.joins,
        "before it is committed",
    ),
    "workers never reach each other again": (
        Reachability,
        "look_again",
        lambda reachability: None,
        themes.apart,
        "has taken no part",
    ),
}
"""Mistakes, each by what is put in which place, and the theme that shows it, with what it says."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_theme_shows_a_mistake(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, name, instead, theme, says = MISTAKES[mistake]
    monkeypatch.setattr(place, name, instead)
    failures = (schedule.run().failure for schedule in _schedules(theme, 40))
    failure = next(failure for failure in failures if failure is not None)
    with pytest.raises(AssertionError, match=says):
        raise failure
