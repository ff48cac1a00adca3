"""The state of a worker, written to its metrics file at each change, for the live view. Needs nothing but Python."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from muloco.runs.folder import STATE, MetricsWriter, RunFolder


class State(StrEnum):
    """States of a worker, roughly in the order in which it passes through them."""

    PREPARING = "preparing data"
    BUILDING = "building the model"
    LOADING = "loading a checkpoint"
    RESUMED = "resumed"
    """It has loaded a checkpoint; the line's step is that of the checkpoint."""
    MEETING = "meeting the others"
    """It waits for the other workers before its first inner step, or for their next sync if they have begun."""
    COMPILING = "compiling"
    """It validates or trains for the first time, while torch compiles the model."""
    TRAINING = "training"
    SYNCING = "syncing"
    """It waits until a sync is done, which includes waiting for the other workers."""
    VALIDATING = "validating"
    EVALUATING = "evaluating"
    SAVING = "saving"
    FINISHED = "finished"
    STOPPED = "stopped"
    """It ends before the last step because of a signal."""


def state_line(state: State) -> dict[str, Any]:
    """The values of a line of metrics about a state."""
    return {"event": STATE, "state": str(state)}


def tell_state(folder: RunFolder, workers: Iterable[int], *, attempt: int, state: State) -> None:
    """Writes the state of workers that have no trainer yet, which would write it; the line's step is 0."""
    for worker in workers:
        writer = MetricsWriter(folder.metrics(worker), worker=worker, attempt=attempt)
        writer.write(0, state_line(state))
        writer.close()
