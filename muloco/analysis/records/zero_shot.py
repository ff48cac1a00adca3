"""Zero-shot accuracies of a run: of evaluations while it was trained, and of `muloco eval` on its checkpoints."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from muloco.runs.folder import ACCURACIES, DURING_TRAINING, RunFolder

TASKS = ("mmlu", "hellaswag", "piqa", "arc_challenge", "arc_easy", "winogrande", "openbookqa")
"""The paper's tasks."""
_LINE = "evaluation/"


def read_zero_shot(
    folder: RunFolder, lines: Iterable[Mapping[str, Any]], *, steps: int, limit: int | None
) -> tuple[dict[str, float], list[str]]:
    """Accuracies after the last step, in %, by task or group of tasks.

    Args:
        folder: of the run.
        lines: of its metrics.
        steps: inner steps of the run.
        limit: documents of each task that its own evaluations have taken; None: all.

    Returns:
        accuracies, and what was left out: evaluations of earlier steps, of a part of the documents, or with shots.
    """
    accuracies: dict[str, float] = {}
    left_out = []
    own = [line for line in lines if line.get("event") == "evaluation"]
    if own and limit is not None:
        left_out.append(f"evaluated on {limit} documents a task while it was trained: not in the zero-shot table")
    elif own and (last := max(own, key=lambda line: line["step"]))["step"] != steps:
        left_out.append(f"last evaluated at step {last['step']} of {steps}: not in the zero-shot table")
    elif own:
        accuracies |= _accuracies(
            (*key.removeprefix(_LINE).rpartition("/")[::2], value)
            for key, value in last.items()
            if key.startswith(_LINE) and key.count("/") > 1
        )
    for file in sorted(folder.evaluations.glob("step-*/*.json")):
        if file.name == DURING_TRAINING:  # the metrics have it
            continue
        reason, in_file = _read(file, steps)
        accuracies |= in_file
        left_out += [f"{file.relative_to(folder.root)} {reason}: not in the zero-shot table"] if reason else []
    return accuracies, left_out


def without_subtasks(tasks: Iterable[str]) -> list[str]:
    """Tasks that are not part of a group that is there too, as mmlu_anatomy is of mmlu."""
    tasks = set(tasks)
    return sorted(task for task in tasks if not any(task.startswith(f"{other}_") for other in tasks))


def _read(file: Path, steps: int) -> tuple[str, dict[str, float]]:
    """Why one of lm-eval's files was left out, or its accuracies."""
    if file.parent.name != f"step-{steps}":
        return "is of an earlier step", {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.get("config", {}).get("limit") is not None:
            return "is of a part of the documents", {}
        if any(content.get("n-shot", {}).values()):
            return "is not zero-shot", {}
        metrics = [
            (task, name.removesuffix(",none"), value)
            for task, by_name in content["results"].items()
            for name, value in by_name.items()
        ]
    except (ValueError, KeyError, AttributeError) as error:
        return f"is not a file of lm-eval's results ({type(error).__name__}: {error})", {}
    return "", _accuracies(metrics)


def _accuracies(metrics: Iterable[tuple[str, str, Any]]) -> dict[str, float]:
    """In %, from task, metric and value."""
    values = {(task, metric): float(value) for task, metric, value in metrics if metric in ACCURACIES}
    accuracies: dict[str, float] = {}
    for chosen in reversed(ACCURACIES):
        accuracies |= {task: 100 * value for (task, metric), value in values.items() if metric == chosen}
    return {task: accuracies[task] for task in without_subtasks(accuracies)}
