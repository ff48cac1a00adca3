"""When the anchor is evaluated, what is refused, and that random generators go on as if nothing had been."""

import random

import numpy as np
import pytest
import torch

from muloco.errors import UserError
from muloco.resolve import resolve
from muloco.settings.config import Config
from muloco.settings.overrides import apply_overrides
from muloco.settings.stored import from_dict, to_dict
from muloco.training.evaluation import evaluation_steps, random_state_kept

pytest.importorskip("lm_eval")


def config(*words: str) -> Config:
    chosen = apply_overrides(Config(), ["--model.flavor", "tiny", "--training.steps", "90", *words])
    return resolve(chosen)


@pytest.mark.parametrize(
    ("at", "steps"),
    [
        ([], (22, 45, 68, 90)),  # round(22.5) and round(67.5), to even
        (["1.0", "1", "0.001"], (1, 90)),
        (["30", "0.5", "45"], (30, 45)),
    ],
)
def test_points_are_shares_of_the_run_and_whole_numbers_steps(at: list[str], steps: tuple[int, ...]) -> None:
    words = ["--evaluation.at", *at] if at else []
    found = config("--evaluation.tasks", "piqa", *words)
    assert evaluation_steps(found) == steps
    again = from_dict(to_dict(found), where="there")
    assert evaluation_steps(again) == steps and again.evaluation == found.evaluation
    assert evaluation_steps(config(*words)) == (), "no tasks"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--evaluation.at", "91"], "the run has 90 steps; got 91"),
        (["--evaluation.at", "0"], "steps count from 1"),
        (["--evaluation.at", "1.5"], "a share of the run, up to 1.0"),
        (["--evaluation.limit", "0"], "evaluation.limit must be at least 1"),
        (["--evaluation.include_path", "nowhere"], "there is no folder .*nowhere"),
        (["--parallelism.tensor_parallel_degree", "2"], "needs parallelism.tensor_parallel_degree 1"),
        (["--checkpoint.initial", "nowhere"], "checkpoint.initial: .*nowhere holds no weights"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config("--evaluation.tasks", "piqa", *words)


def test_lm_eval_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config()
    with pytest.raises(UserError, match=r"pip install 'lm-eval\[hf\]==0\.4\.13'"):
        config("--evaluation.tasks", "piqa")


def test_random_generators_go_on_as_before() -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(1)
    draw()
    with random_state_kept():
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(7)
        inside = draw()
    found = draw()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(1)
    draw()
    assert found == draw() != inside
