"""Studies of the pseudogradients that workers get from a checkpoint."""

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.progress import Progress

from muloco.analysis.pseudogradients.collect import collect
from muloco.analysis.pseudogradients.study import Study, study
from muloco.runs.checkpoint_folder import CheckpointFolder
from muloco.training.continuation import Continuation
from muloco.training.trained import Trained, find_trained


def choose(checkpoint: str, steps: int) -> Trained:
    """Returns the checkpoint that a user means. For a run folder it is the newest one that the run had `steps`
    more steps planned after; the last checkpoint of a finished run has none.

    Raises:
        UserError: there is no such checkpoint, or it is incomplete or damaged.
    """
    trained = find_trained(checkpoint, verified=False)
    planned = trained.config.training.steps
    if planned is None or trained.step + steps <= planned or Path(checkpoint).name.startswith("step-"):
        return find_trained(checkpoint)
    earlier = [step for step in CheckpointFolder(trained.run.checkpoint).steps() if step + steps <= planned]
    return find_trained(checkpoint, step=max(earlier)) if earlier else trained


def study_checkpoint(trained: Trained, counts: list[int], steps: int, out: Path, progress: Progress) -> Study:
    """Trains on from a checkpoint with each number of workers, and compares their pseudogradients.

    Args:
        trained: the checkpoint.
        counts: numbers of workers, K.
        steps: inner steps of each worker, H.
        out: folder; the tensors go into `tensors/RUN-stepN` in it.
        progress: gets a task that advances by one for each worker and each of its parts.
    """
    folder = out / "tensors" / trained.name.replace(", step ", "-step")
    folder.mkdir(parents=True)
    task = progress.add_task(trained.name, total=2 * sum(counts))
    with (
        TemporaryDirectory() as scratch,
        closing(Continuation(trained, counts=counts, steps=steps, scratch=Path(scratch))) as continuation,
    ):
        for workers in counts:
            collect(continuation, workers=workers, steps=steps, folder=folder, done=lambda: progress.advance(task))
    optimizer = trained.config.optimizer.name
    return study(folder, counts, run=trained.name, optimizer=optimizer, steps=steps)
