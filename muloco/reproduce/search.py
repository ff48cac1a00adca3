"""Decides which runs are wanted next, given the results so far: inner learning rates with one seed, then the seeds at
the best of them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from muloco.reproduce.design import SEEDS, Setting

FACTOR = 2.0
"""Factor between two learning rates of a search."""


@dataclass(frozen=True)
class Trial:
    """A single run."""

    setting: Setting
    lr: float
    seed: int


Losses = Mapping[Trial, float]
"""Final held-out losses of the runs that are there; infinite where a run has diverged."""


def wanted(settings: Iterable[Setting], losses: Losses, extensions: int) -> list[Trial]:
    """Returns the runs that are wanted and not there, seed by seed: all that can be said with the first one comes
    before the others.

    Args:
        settings: what is to be run. A setting that is like another waits for the learning rate of the other.
        losses: of the runs that are there.
        extensions: how often a search goes on beyond its first or last rate, where that is the best.
    """
    settings = list(settings)
    searched = [trial for setting in settings for trial in _search(setting, losses, extensions)]
    rates = {setting: best_rate(setting, losses, extensions) for setting in settings}
    repeated = [Trial(setting, rate, seed) for seed in SEEDS for setting, rate in rates.items() if rate is not None]
    return [trial for trial in dict.fromkeys([*searched, *repeated]) if trial not in losses]


def best_rate(setting: Setting, losses: Losses, extensions: int) -> float | None:
    """Returns the inner learning rate that was found for a setting; None while its search goes on, or if all have
    diverged."""
    if setting.like is not None:
        return best_rate(setting.like, losses, extensions)
    if any(trial not in losses for trial in _search(setting, losses, extensions)):
        return None
    tried = [trial for trial in losses if (trial.setting, trial.seed) == (setting, SEEDS[0])]
    best = min(tried, key=lambda trial: losses[trial])
    return best.lr if math.isfinite(losses[best]) else None


def _search(setting: Setting, losses: Losses, extensions: int) -> list[Trial]:
    """Returns the trials of a search as far as it is known: three rates, and one more beyond an end that is best."""
    if setting.like is not None:
        return []
    first = setting.first_rate
    trials = [Trial(setting, rate, SEEDS[0]) for rate in (first / FACTOR, first, first * FACTOR)]
    for _ in range(extensions):
        if any(trial not in losses for trial in trials):
            break
        best = min(trials, key=lambda trial: losses[trial])
        if best == trials[0]:
            trials.insert(0, Trial(setting, best.lr / FACTOR, SEEDS[0]))
        elif best == trials[-1]:
            trials.append(Trial(setting, best.lr * FACTOR, SEEDS[0]))
        else:
            break
    return trials
