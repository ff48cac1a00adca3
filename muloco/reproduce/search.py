"""Decides which runs are wanted next, given the results so far: inner learning rates with one seed, then the seeds at
the best of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from muloco.reproduce.design import Setting

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


def wanted(settings: Iterable[Setting], losses: Losses, *, seeds: Sequence[int], extensions: int) -> list[Trial]:
    """The runs that are wanted and not there.

    Seed by seed: all that can be said with the first one comes before the others.

    Args:
        settings: what is to be run. One that is like another waits for that one's learning rate.
        losses: of the runs that are there.
        seeds: the first one is that of the searches.
        extensions: how often a search goes on beyond its first or last rate, where that is the best.
    """
    settings = list(settings)
    searched = [trial for setting in settings for trial in _search(setting, losses, seeds[0], extensions)]
    repeated = [
        Trial(setting, rate, seed)
        for seed in seeds
        for setting in settings
        if (rate := best_rate(setting, losses, seed=seeds[0], extensions=extensions)) is not None
    ]
    return [trial for trial in dict.fromkeys([*searched, *repeated]) if trial not in losses]


def best_rate(setting: Setting, losses: Losses, *, seed: int, extensions: int) -> float | None:
    """The inner learning rate that was found for a setting; None while its search goes on, or if all have diverged."""
    if setting.like is not None:
        return best_rate(setting.like, losses, seed=seed, extensions=extensions)
    if any(trial not in losses for trial in _search(setting, losses, seed, extensions)):
        return None
    found = _found(setting, losses, seed)
    best = min(found, key=lambda rate: found[rate])
    return best if math.isfinite(found[best]) else None


def _search(setting: Setting, losses: Losses, seed: int, extensions: int) -> list[Trial]:
    """The trials of a search as far as it is known: three rates, and one more beyond an end that is best."""
    if setting.like is not None:
        return []
    rates = [setting.first_rate / FACTOR, setting.first_rate, setting.first_rate * FACTOR]
    for _ in range(extensions):
        found = {rate: losses.get(Trial(setting, rate, seed)) for rate in rates}
        if any(loss is None for loss in found.values()):
            break
        best = min(rates, key=lambda rate: found[rate])  # type: ignore[arg-type,return-value]
        if best == rates[0]:
            rates.insert(0, best / FACTOR)
        elif best == rates[-1]:
            rates.append(best * FACTOR)
        else:
            break
    return [Trial(setting, rate, seed) for rate in rates]


def _found(setting: Setting, losses: Losses, seed: int) -> dict[float, float]:
    return {trial.lr: loss for trial, loss in losses.items() if trial.setting == setting and trial.seed == seed}
