"""Evaluation in training: what cannot be evaluated is refused at the start, and ends no training later."""

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from muloco.errors import UserError
from muloco.evals.in_training import rehearse
from muloco.settings.config import Config
from muloco.training.context import WorkerContext
from muloco.training.validation import AnchorValidator

from .local_tasks import write_tasks


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def config(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("MULOCO_CACHE", str(cache))
    config = Config()
    config.data.vocabulary = 300
    config.evaluation.tasks = ("local_choice", "local_rolling")
    config.evaluation.include_path = str(write_tasks(tmp_path / "tasks"))
    return config


def test_a_task_that_can_be_evaluated_is_taken(config: Config) -> None:
    config.training.seq_len = 128
    rehearse(config)


def test_answers_longer_than_the_model_takes_are_refused_at_the_start(config: Config) -> None:
    config.training.seq_len = 4
    with pytest.raises(UserError, match=r"evaluation.tasks: local_choice cannot be evaluated: ValueError: .*takes 4"):
        rehearse(config)


def test_a_task_that_is_broken_is_refused_at_the_start(config: Config) -> None:
    task = Path(str(config.evaluation.include_path)) / "choice.yaml"
    task.write_text(task.read_text().replace("{{question}}", "{{ question.missing.too }}"))
    with pytest.raises(UserError, match="task local_choice cannot be loaded: UndefinedError"):
        rehearse(config)


class Metrics:
    """Of a worker, as far as the validator uses them."""

    ntokens_since_last_log, time_last_log = 0, 0.0

    def __init__(self) -> None:
        self.failures: list[tuple[int, str]] = []

    def enter(self, state: object, step: int) -> None:
        """What the worker does, for the live view."""

    def log_event(self, step: int, event: str, reason: str) -> None:
        assert event == "evaluation_failed"
        self.failures.append((step, reason))


@pytest.mark.parametrize(
    ("error", "ranks", "survives"),
    [
        (KeyError("no such field"), None, True),
        (RuntimeError("out of memory"), None, True),
        (ValueError("too long"), "several", True),
        (RuntimeError("out of memory"), "several", False),
    ],
)
def test_an_evaluation_that_fails_ends_no_training(error: Exception, ranks: str | None, survives: bool) -> None:
    def evaluation(*args: object) -> dict[str, float]:
        raise error

    validator = AnchorValidator.__new__(AnchorValidator)
    validator.config = SimpleNamespace(freq=10, last_step=20, evaluated=(5,))
    validator.metrics_processor = Metrics()
    model = nn.Linear(2, 2)
    weights = model.weight.detach().clone()

    @contextmanager
    def anchor_weights():
        with torch.no_grad():
            model.weight.zero_()
            yield
            model.weight.copy_(weights)

    outer = SimpleNamespace(anchor_weights=anchor_weights)
    validator.context = WorkerContext(evaluation=evaluation, ranks=ranks, outer=outer)
    if not survives:
        with pytest.raises(type(error)):
            validator.validate([model], 5)
        return
    validator.validate([model], 5)
    assert validator.metrics_processor.failures == [(5, f"{type(error).__name__}: {error}")]
    assert model.training and torch.equal(model.weight, weights)
