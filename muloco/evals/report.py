"""The results of lm-eval as figures by name, as a table, as a mean and as a file. Needs nothing but Python and rich,
and lm-eval for the file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from muloco.runs.folder import ACCURACIES, write_json


def figures(results: Mapping[str, Any]) -> dict[str, float]:
    """Each metric of each task and group in lm-eval's results, as TASK/METRIC, standard errors left out."""
    values = {}
    for task, metrics in results["results"].items():
        for name, value in metrics.items():
            metric, _, kind = name.partition(",")
            if kind and not metric.endswith("_stderr") and isinstance(value, int | float):
                values[f"{task}/{metric}" if kind == "none" else f"{task}/{metric},{kind}"] = float(value)
    return values


def mean(values: Mapping[str, float], tasks: list[str]) -> float | None:
    """The mean accuracy of the tasks and groups that were asked for, given the `figures`; None where none of them has
    an accuracy."""
    accuracies = []
    for task in tasks:
        metrics = [f"{task}/{metric}" for metric in ACCURACIES if f"{task}/{metric}" in values]
        accuracies += [values[metric] for metric in metrics[:1]]
    return sum(accuracies) / len(accuracies) if accuracies else None


def table(results: Mapping[str, Any], tasks: list[str], *, title: str) -> Table:
    """One row a metric, and the mean."""
    drawn = Table(title=Text(title), title_justify="left")
    for column, justify in (("task", "left"), ("metric", "left"), ("value", "right"), ("standard error", "right")):
        drawn.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    values = figures(results)
    shown = ""
    for name, value in values.items():
        task, metric = name.rsplit("/", 1)
        plain, _, kind = metric.partition(",")
        error = results["results"][task].get(f"{plain}_stderr,{kind or 'none'}")
        deviation = f"{error:.4f}" if isinstance(error, float) else ""
        drawn.add_row("" if task == shown else task, metric, f"{value:.4f}", deviation)
        shown = task
    if (average := mean(values, tasks)) is not None:
        drawn.add_section()
        drawn.add_row("mean", " or ".join(ACCURACIES), f"{average:.4f}", "")
    return drawn


def write_results(file: Path, results: Mapping[str, Any], *, run: Path, step: int, average: float | None) -> None:
    """Writes lm-eval's JSON, with a section `muloco` that says what was evaluated: the folder of the run, the inner
    step of its checkpoint, and the mean accuracy (`mean`). The file is overwritten."""
    from lm_eval.utils import handle_non_serializable

    ours = {"run": str(run.resolve()), "step": step, "mean_accuracy": average}
    write_json(file, json.loads(json.dumps({**results, "muloco": ours}, default=handle_non_serializable)))
