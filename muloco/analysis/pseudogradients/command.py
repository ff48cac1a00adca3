"""`muloco analyze pseudogradients`."""

import argparse
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from muloco.analysis.output import check_folder, writing
from muloco.analysis.pseudogradients.collect import collect
from muloco.analysis.pseudogradients.figures import draw
from muloco.analysis.pseudogradients.study import Study, study
from muloco.analysis.pseudogradients.tables import console_tables, markdown, tables, text_tables
from muloco.console import open_console
from muloco.errors import UserError
from muloco.runs.checkpoint_folder import CheckpointFolder
from muloco.training.continuation import Continuation, check, one_rank
from muloco.training.trained import Trained, find_trained

TABLE = "table.md"
"""Written last: a folder with it is complete."""


def run_pseudogradients(command: argparse.Namespace) -> int:
    """Returns 0; raises UserError for what cannot be analyzed, before anything is written."""
    counts = sorted({1, *command.workers})
    if counts == [1]:
        raise UserError("--workers needs a K above 1; its workers are compared with K = 1")
    out = Path(command.out)
    check_folder("--out", out)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"--out: {out} exists and is not an empty folder; nothing in it is overwritten")
    found = [_find(checkpoint, command.steps) for checkpoint in command.checkpoints]
    names = [trained.name for trained in found]
    if len(set(names)) < len(names):
        raise UserError(f"a checkpoint is given twice, or two runs have the same name: {'; '.join(names)}")
    for trained in found:
        check(trained, counts=counts, steps=command.steps)
    console = open_console()
    with writing("--out", out):
        out.mkdir(parents=True, exist_ok=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn()
    with one_rank(), Progress(*columns, console=console) as progress:
        studies = [_study(trained, counts, command.steps, out, progress) for trained in found]
    with writing("--out", out):
        for name, text in tables(studies).items():
            (out / name).write_text(text, encoding="utf-8")
        draw(studies, out)
        (out / TABLE).write_text(markdown(studies), encoding="utf-8")
    for table in text_tables(studies):
        for part in console_tables(table, width=console.width):
            console.print(part)
        console.print(*table.notes, style="dim", markup=False)
    console.print(f"table, figures, CSV and tensors: {out}", markup=False, soft_wrap=True)
    return 0


def _find(checkpoint: str, steps: int) -> Trained:
    """The checkpoint that is meant. Of a run folder it is the newest one that the run had `steps` more steps planned
    after; of a finished run, the last one has none."""
    trained = find_trained(checkpoint, verified=False)
    planned = trained.config.training.steps
    if planned is None or trained.step + steps <= planned or Path(checkpoint).name.startswith("step-"):
        return find_trained(checkpoint)
    earlier = [step for step in CheckpointFolder(trained.run.checkpoint).steps() if step + steps <= planned]
    return find_trained(checkpoint, step=max(earlier)) if earlier else trained


def _study(trained: Trained, counts: list[int], steps: int, out: Path, progress: Progress) -> Study:
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
