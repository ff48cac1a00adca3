"""Trackers of a worker's metrics in addition to its own file, whose failures do not end the training."""

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from muloco.errors import UserError
from muloco.runs.folder import RunFolder
from muloco.settings.config import Config
from muloco.settings.fields import flatten
from muloco.settings.stored import to_dict

logger = logging.getLogger(__name__)

HPARAM_METRICS = ("loss", "validation_loss", "validation_bits_per_byte")
"""Metrics of a run in TensorBoard's HPARAMS tab, next to its settings."""


class Tracker(Protocol):
    """Takes a worker's metrics in addition to its own metrics file."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Takes values after inner step `step`."""
        ...

    def close(self) -> None: ...


@dataclass
class LastingTracker:
    """Wraps a tracker. If the tracker fails, for example because its files cannot be written, values are dropped for a
    while, and then it is tried again; the log says so once."""

    tracker: Tracker
    clock: Callable[[], float] = time.monotonic
    """Returns the time in seconds."""

    PAUSE_SECONDS: ClassVar[float] = 60.0
    """Seconds from a failure to the next try."""

    _again: float = -math.inf
    """Time from which the tracker may be called again."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        if self.clock() >= self._again:
            self._lasting(lambda: self.tracker.log(values, step))

    def close(self) -> None:
        self._lasting(self.tracker.close)

    def _lasting(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:  # trackers are foreign code, and the training does not depend on them
            if self._again == -math.inf:
                logger.warning(
                    "metrics for TensorBoard or W&B cannot be written (%s); the metrics files are not affected",
                    " ".join(str(error).split()) or type(error).__name__,
                )
            self._again = self.clock() + self.PAUSE_SECONDS


class TensorBoard:
    """TensorBoard events in one folder for each worker, which a resumed run continues. All fields of the resolved
    config are hyperparameters."""

    def __init__(self, folder: Path, config: Config):
        self._folder = folder
        self._config = config
        self._writer: SummaryWriter | None = None

    def log(self, values: Mapping[str, float], step: int) -> None:
        writer, self._writer = self._writer or self._open(step), None  # a writer that failed is not used again
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        self._writer = writer

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _open(self, step: int) -> SummaryWriter:
        """Begins at a step; values of earlier attempts from this step on are not shown any more."""
        fresh = not any(self._folder.glob("events*"))
        writer = SummaryWriter(str(self._folder), purge_step=None if fresh else step)
        if fresh and writer.file_writer is not None:
            chosen = {
                name: value if isinstance(value, bool | int | float | str) else str(value)
                for name, value in flatten(self._config).items()
                if value is not None
            }
            for summary in hparams(chosen, dict.fromkeys(HPARAM_METRICS, 0.0)):
                writer.file_writer.add_summary(summary)
        return writer


class WeightsAndBiases:
    """One W&B run for each worker, which a resumed run continues. W&B keeps the first values of a step.

    W&B's own environment variables are respected: WANDB_PROJECT, WANDB_RUN_GROUP, WANDB_NAME, WANDB_RUN_ID, WANDB_DIR,
    WANDB_ENTITY, WANDB_MODE and so on. The worker's number is added to name and id, as each worker is a W&B run. Its
    metrics file has to exist.

    Raises:
        UserError: W&B does not start; the message has its reason.
    """

    def __init__(self, folder: RunFolder, worker: int, config: Config):
        import wandb  # it takes a second

        name = str(config.run.name)
        suffix = f"worker-{worker:03d}"
        chosen_id = os.environ.get("WANDB_RUN_ID")
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "muloco"),
                group=os.environ.get("WANDB_RUN_GROUP", name),
                name=f"{os.environ.get('WANDB_NAME', name)}-{suffix}",
                id=f"{chosen_id}-{suffix}" if chosen_id else run_id(folder, worker, name),
                dir=os.environ.get("WANDB_DIR", str(folder.root)),
                config=to_dict(config),
                resume="allow",
                settings={"quiet": True},  # it would print some thirty lines at the end
                reinit="create_new",  # the workers of one process are runs side by side
            )
        except wandb.Error as error:
            raise UserError(f"metrics.wandb: Weights & Biases does not start: {error}") from error

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def run_id(folder: RunFolder, worker: int, name: str) -> str:
    """An id that stays the same for a worker of a run over all starts and places of its folder: it follows from the
    run's name and the first line of the worker's metrics, which has the time to a millisecond."""
    with folder.metrics(worker).open("rb") as file:
        first = file.readline()
    return hashlib.sha256(f"{name} {worker} ".encode() + first).hexdigest()[:16]
