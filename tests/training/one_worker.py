"""Runs a whole training of one worker in this process and returns its metrics."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from muloco.resolve import resolve
from muloco.runs.folder import RunFolder, read_metrics
from muloco.settings.load import load_config
from muloco.training.worker import run_worker

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
SMALL = {
    "model.flavor": "tiny",
    "training.seq_len": 64,
    "training.global_batch_size": 4,
    "training.local_batch_size": 2,
    "training.steps": 6,
    "lr_scheduler.warmup_steps": 1,
    "fault_tolerance.group_size": 1,
    "validation.freq": 2,
    "validation.sequences": 4,
    "metrics.log_freq": 1,
    "metrics.tensorboard": False,
    "checkpoint.enable": False,
}


def train(outputs: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, **changes: Any) -> list[dict[str, Any]]:
    """The metrics of a run of a few steps.

    Args:
        outputs: folder that holds no run yet.
        monkeypatch: takes back what the run does to this process.
        recipe: of `config/laptop`.
        changes: to the config, with `__` for the point in a field's name.
    """
    values = SMALL | {"run.outputs": outputs, "run.name": "run"}
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    chosen = load_config(
        f"config/laptop/{recipe}.py", [word for name, value in values.items() for word in (f"--{name}", str(value))]
    )
    monkeypatch.setattr("torchtitan.trainer.time.sleep", lambda seconds: None)  # for other ranks
    handlers, environment = {number: signal.getsignal(number) for number in SIGNALS}, dict(os.environ)
    try:
        run_worker(resolve(chosen), chosen=chosen)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(environment)
    return read_metrics(RunFolder(outputs / "run"))


def losses(metrics: list[dict[str, Any]]) -> list[tuple[str, int, float]]:
    """Every loss that was logged, of training and of validation."""
    names = ("loss", "validation_loss", "local_validation_loss")
    return [(name, line["step"], line[name]) for line in metrics for name in names if name in line]
