"""Runs over several starts, by workers in this process: extended, or stopped with something still to do."""

import copy
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from muloco.launch.summary import reached_end, summarize, summary_table
from muloco.resolve import resolve
from muloco.runs.attempts import next_attempt
from muloco.runs.folder import RunFolder, read_metrics, write_json
from muloco.settings.config import Config
from muloco.settings.load import load_config, locate
from muloco.training.environment import ATTEMPT
from muloco.training.resuming import take_up
from muloco.training.schedule import inner_learning_rate
from muloco.training.worker import run_worker

from ..covering import only

MULOCO = "config/laptop/muloco.py"
SETTINGS = {
    "model.flavor": "tiny",
    "training.seq_len": 64,
    "training.global_batch_size": 4,
    "training.local_batch_size": 2,
    "training.steps": 8,
    "validation.sequences": 8,
    "validation.freq": 2,
    "lr_scheduler.warmup_steps": 2,
    "lr_scheduler.min_lr_factor": 1.0,
    "metrics.tensorboard": False,
    "metrics.log_freq": 1,
    "fault_tolerance.transport": "in_process",
    "fault_tolerance.sync_steps": 2,
    "checkpoint.interval": 4,
    "checkpoint.keep": 0,
}
FIGURE = 0.25


class Evaluated:
    """An evaluation that counts, and makes a figure of the weights."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def __call__(self, model: torch.nn.Module, ranks: Any, step: int) -> dict[str, float]:
        self.steps.append(step)
        return {"task/acc": FIGURE, "weights": next(model.parameters()).sum().item()}


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Runs all workers of a resolved config in this process, as the supervisor would have a process do it."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # torchtitan waits for other ranks at its end

    def run(config: Config, evaluation: Evaluated | None = None) -> RunFolder:
        folder = RunFolder.of(config.run.outputs, config.run.name)
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        monkeypatch.setenv(ATTEMPT, str(next_attempt(folder)))
        run_worker(config, chosen=config, make_evaluation=None if evaluation is None else lambda *_: evaluation)
        return folder

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def asked(root: Path, **overrides: Any) -> Config:
    values = {**SETTINGS, **{name.replace("__", "."): value for name, value in overrides.items()}}
    values |= {"run.name": root.name, "run.outputs": root.parent}
    return load_config(MULOCO, [word for name, value in values.items() for word in (f"--{name}", str(value))])


def resumed(folder: RunFolder, *words: str) -> Config:
    config = load_config(str(folder.config), words)
    locate(config, folder.config, words)
    return take_up(config).config


def learned(folder: RunFolder) -> dict[str, list[Any]]:
    """What two runs of the same numbers share, by kind: worker, step and value."""
    kinds = {"loss", "lr", "tokens", "digest", "validation_loss", "local_validation_loss", "evaluation/weights"}
    lines = read_metrics(folder)
    return {
        kind: sorted({(line["worker"], line["step"], line[kind]) for line in lines if kind in line}) for kind in kinds
    }


def cut(folder: RunFolder, keep: Callable[[dict[str, Any]], bool], *, step: int) -> None:
    """As if the run had been killed behind the checkpoint of a step, with these lines of metrics."""
    for path in folder.metrics_files().values():
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if keep(json.loads(line))))
    for manifest in folder.checkpoint.glob("step-*/manifest.json"):
        if manifest.parent.name != f"step-{step}":
            manifest.unlink()


def test_a_finished_run_that_is_extended_is_the_longer_run_to_the_last_bit(
    tmp_path: Path, work: Callable[..., RunFolder]
) -> None:
    whole = learned(work(resolve(asked(tmp_path / "whole"))))
    folder = work(resolve(asked(tmp_path / "extended", training__steps=4)))
    assert {step for _, step, _ in learned(folder)["loss"]} == {1, 2, 3, 4}
    longer = resumed(folder, "--training.tokens", str(8 * 4 * 64))
    work(longer)
    assert learned(folder) == whole
    assert summarize(longer, folder, corpus=[], wall_seconds=1.0, restarts=0)["steps"] == 8


def test_the_rates_of_an_extended_run_follow_the_new_length_or_stay(
    tmp_path: Path, work: Callable[..., RunFolder]
) -> None:
    """The last window of the shorter run is a short one. None of its steps is lost or counted twice."""
    folder = work(
        resolve(
            asked(tmp_path / "run", training__steps=4, lr_scheduler__min_lr_factor=0.1, fault_tolerance__sync_steps=3)
        )
    )
    held = resumed(folder, "--training.steps", "6", "--lr_scheduler.total_steps", "4")
    work(held)
    write_json(folder.config, {"resolved": json.loads(folder.config.read_text())["resolved"]})
    rates = {step: rate for worker, step, rate in learned(folder)["lr"] if worker == 0}
    assert rates == {step: inner_learning_rate(held, step) for step in range(1, 7)}
    assert rates[5] < rates[4] < rates[3] and rates[6] == rates[5]

    stretched = copy.deepcopy(held)
    stretched.training.steps, stretched.training.tokens, stretched.lr_scheduler.total_steps = 9, None, None
    stretched = resolve(stretched)
    work(stretched)
    rates = {step: rate for worker, step, rate in learned(folder)["lr"] if worker == 0}
    assert {step: rates[step] for step in (7, 8, 9)} == {
        step: inner_learning_rate(stretched, step) for step in (7, 8, 9)
    }
    assert rates[7] > rates[6]
    syncs = [line for line in read_metrics(folder) if line.get("event") == "sync"]
    assert [(line["step"], line["weights"]) for line in syncs if line["worker"] == 0] == [
        (step, {"0": weight, "1": weight}) for step, weight in ((3, 3), (4, 1), (6, 2), (9, 3))
    ]
    digests = {(line["step"], line["digest"]) for line in syncs}
    assert len(syncs) == 8 and len(digests) == 4


@pytest.mark.full
def test_ranks_may_take_smaller_batches_from_a_resume_on(tmp_path: Path, work: Callable[..., RunFolder]) -> None:
    whole = learned(work(resolve(asked(tmp_path / "whole"))))
    folder = work(resolve(asked(tmp_path / "run", training__steps=4)))
    work(resumed(folder, "--training.steps", "8", "--training.local_batch_size", "1"))
    found = learned(folder)
    assert found["tokens"] == whole["tokens"]
    for kind in ("loss", "validation_loss"):
        for (*where, value), (*there, expected) in zip(found[kind], whole[kind], strict=True):
            assert where == there and value == pytest.approx(expected, rel=1e-3)


def is_validation(line: dict[str, Any]) -> bool:
    return "validation_loss" in line


def is_evaluation(line: dict[str, Any]) -> bool:
    return line.get("event") == "evaluation"


OWED = {
    "validation and evaluation": lambda line: is_validation(line) or is_evaluation(line),
    "evaluation": is_evaluation,
    "nothing": lambda line: False,
}


@pytest.mark.parametrize(
    ("owed", "step"),
    only(
        [("validation and evaluation", 6)],
        [("validation and evaluation", 6), ("validation and evaluation", 8), ("evaluation", 4), ("evaluation", 8)]
        + [("nothing", 4), ("nothing", 8)],
    ),
)
def test_a_resume_makes_up_for_what_its_checkpoints_step_owes(
    tmp_path: Path, work: Callable[..., RunFolder], owed: str, step: int
) -> None:
    """Killed behind the checkpoint of step 4 or 6, the latter in mid-window, or of the last step, 8."""
    evaluation = Evaluated()
    config = resolve(asked(tmp_path / "run", fault_tolerance__sync_steps=4, checkpoint__interval=2))
    config.evaluation.tasks, config.evaluation.at = ("task",), (4, 6, 8)
    folder = work(config, evaluation)
    whole = learned(folder)
    assert evaluation.steps == [4, 6, 8] and len(whole["validation_loss"]) == 2 * 5
    cut(folder, lambda line: line["step"] < step or (line["step"] == step and not OWED[owed](line)), step=step)
    assert reached_end(config, folder) == (step == 8 and "validation" not in owed)

    evaluation.steps.clear()
    work(config, evaluation)
    again = [] if owed == "nothing" else [step]
    assert evaluation.steps == again + [later for later in (4, 6, 8) if later > step]
    assert learned(folder) == whole and reached_end(config, folder)
    evaluation.steps.clear()
    work(config, evaluation)
    assert evaluation.steps == [] and learned(folder) == whole, "nothing is owed twice"


def test_the_summary_has_the_last_evaluation(tmp_path: Path, work: Callable[..., RunFolder]) -> None:
    config = resolve(asked(tmp_path / "run", training__steps=2, fault_tolerance__group_size=1))
    without = summarize(config, work(config), corpus=[], wall_seconds=1.0, restarts=0)
    assert without["evaluation"] is None and "evaluation" not in table_of(without, config)
    config = resolve(asked(tmp_path / "evaluated", training__steps=2, fault_tolerance__group_size=1))
    config.evaluation.tasks, config.evaluation.at = ("task",), (1, 2)
    found = summarize(config, work(config, Evaluated()), corpus=[], wall_seconds=1.0, restarts=0)
    assert found["evaluation"]["step"] == 2 and found["evaluation"]["figures"]["task/acc"] == FIGURE
    assert "task/acc 0.2500" in table_of(found, config)


def table_of(summary: dict[str, Any], config: Config) -> str:
    cells = [cell for column in summary_table(summary, config=config).columns for cell in column.cells]
    return " ".join(map(str, cells))
