"""What a worker is doing, told in its metrics file at each change for those who watch. Needs nothing but Python."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from muloco.training.run_folder import STATE, MetricsWriter, RunFolder


class State(StrEnum):
    """In about the order in which a worker passes through them."""

    PREPARING = "preparing data"
    BUILDING = "building the model"
    LOADING = "loading a checkpoint"
    RESUMED = "resumed"
    """It has loaded a checkpoint; the line's step is that of the checkpoint."""
    MEETING = "meeting the others"
    """It waits for the other workers before its first inner step, or for their next sync where they are under way."""
    COMPILING = "compiling"
    """It validates or trains for the first time, with a model that torch compiles then."""
    TRAINING = "training"
    SYNCING = "syncing"
    """It stands still until a sync is done, which includes waiting for the other workers."""
    VALIDATING = "validating"
    EVALUATING = "evaluating"
    SAVING = "saving"
    FINISHED = "finished"
    STOPPED = "stopped"
    """It ends before the last step, as a signal has asked for."""


def state_line(state: State) -> dict[str, Any]:
    """What a line of metrics says of it."""
    return {"event": STATE, "state": str(state)}


def tell_state(folder: RunFolder, workers: Iterable[int], *, attempt: int, state: State) -> None:
    """Tells the state of workers that have no trainer yet, which would tell it; the line's step is 0."""
    for worker in workers:
        writer = MetricsWriter(folder.metrics(worker), worker=worker, attempt=attempt)
        writer.write(0, state_line(state))
        writer.close()
