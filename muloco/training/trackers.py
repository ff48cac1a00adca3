"""Trackers of a worker's metrics in addition to its own file: TensorBoard and Weights & Biases."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from muloco.errors import UserError
from muloco.runs.folder import RunFolder
from muloco.settings.config import Config
from muloco.settings.fields import flatten
from muloco.settings.stored import to_dict

HPARAM_METRICS = ("loss", "validation_loss", "validation_bits_per_byte")
"""Metrics of a run in TensorBoard's HPARAMS tab, next to its settings."""


class TensorBoard:
    """TensorBoard events in one folder for each worker, which a resumed run continues.

    Args:
        folder: of the worker.
        config: resolved; all of its fields are hyperparameters.
    """

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
    WANDB_ENTITY, WANDB_MODE and so on. The worker's number is added to name and id, as each worker is a W&B run.

    Args:
        folder: of the run; the worker's metrics file has begun.
        worker: its number.
        config: resolved; it becomes the W&B run's config.

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
