"""Searches for learning rates against losses that a formula gives."""

import math
from collections.abc import Callable

import pytest

from muloco.reproduce.design import SEEDS, Setting
from muloco.reproduce.search import Trial, best_rate, wanted

BASE = Setting("a", "MuLoCo", {}, first_rate=0.08)
LIKE = Setting("a-4bit", "MuLoCo", {"compression.bits": 4}, first_rate=0.08, like=BASE)


def run_all(settings: list[Setting], loss: Callable[[Trial], float], extensions: int = 2) -> list[Trial]:
    """Runs the first trial that is wanted until there is none; all trials in their order."""
    losses: dict[Trial, float] = {}
    while trials := wanted(settings, losses, extensions):
        losses[trials[0]] = loss(trials[0])
    return list(losses)


def valley(best: float) -> Callable[[Trial], float]:
    return lambda trial: 4 + math.log2(trial.lr / best) ** 2 + trial.seed / 100


@pytest.mark.parametrize(
    ("best", "tried", "chosen"),
    [
        (0.08, [0.04, 0.08, 0.16], 0.08),
        (0.16, [0.04, 0.08, 0.16, 0.32], 0.16),
        (0.01, [0.01, 0.02, 0.04, 0.08, 0.16], 0.01),
        (0.001, [0.01, 0.02, 0.04, 0.08, 0.16], 0.01),
    ],
)
def test_a_search_goes_on_beyond_an_end_and_the_seeds_follow_at_the_best(
    best: float, tried: list[float], chosen: float
) -> None:
    trials = run_all([BASE], valley(best))
    assert sorted(trial.lr for trial in trials if trial.seed == 1) == pytest.approx(tried)
    assert [(trial.lr, trial.seed) for trial in trials[-2:]] == [(chosen, 2), (chosen, 3)]
    assert len(trials) == len(tried) + 2


def test_what_is_like_another_takes_its_rate_and_waits_for_it() -> None:
    trials = run_all([LIKE, BASE], valley(0.16))
    assert [(trial.lr, trial.seed) for trial in trials if trial.setting == LIKE] == [(0.16, seed) for seed in SEEDS]
    assert wanted([LIKE], {}, 2) == []


def test_seed_by_seed() -> None:
    trials = run_all([BASE, LIKE], valley(0.08))
    assert [trial.seed for trial in trials] == [1, 1, 1, 1, 2, 2, 3, 3]


def test_without_extensions_the_best_of_three_counts() -> None:
    trials = run_all([BASE], valley(10.0), extensions=0)
    assert sorted(trial.lr for trial in trials if trial.seed == 1) == [0.04, 0.08, 0.16]
    assert trials[-1].lr == 0.16


def test_a_rate_that_diverges_is_not_the_best_and_none_is_if_all_do() -> None:
    trials = run_all([BASE], lambda trial: math.inf if trial.lr > 0.05 else 4 + trial.lr)
    assert trials[-1] == Trial(BASE, 0.01, 3)  # 0.04 of the first three, then 0.02 and 0.01
    everything = {Trial(BASE, lr, 1): math.inf for lr in (0.02, 0.04, 0.08, 0.16, 0.01)}
    assert best_rate(BASE, everything, 2) is None


def test_what_is_there_is_not_wanted_again() -> None:
    first = wanted([BASE], {}, 0)
    there = {trial: 4.0 for trial in first[:2]}
    assert wanted([BASE], there, 0) == first[2:]
