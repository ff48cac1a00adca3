"""lm-eval's tasks, found and loaded with errors that say what is missing. Importing this imports lm-eval."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError
from lm_eval.tasks import TaskManager

from muloco.errors import UserError
from muloco.evals.names import SUITES, expand, unknown_task


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """Tasks with their data."""

    asked: list[str]
    """Names of the tasks and groups whose results are asked for."""
    leaves: dict[str, Any]
    """lm-eval's tasks, by name."""
    groups: dict[str, Any]
    """lm-eval's groups, by name."""


def load_tasks(names: Sequence[str], include_path: str | None) -> Tasks:
    """Loads tasks, groups of tasks and suites, given a folder with the user's tasks, if there is one.

    Raises:
        UserError: no such folder, or no such task: the message names the nearest ones; or the data of a task is
            missing, or the task is broken.
    """
    names = expand(list(names))
    if not names:
        raise UserError("no tasks; give lm-eval's names of some, or a suite: " + ", ".join(SUITES))
    manager = _manager(names, include_path)
    tasks = Tasks(asked=[], leaves={}, groups={})
    for name in names:
        try:
            loaded = manager.load([name])
        except (OSError, DatasetsError, HfHubHTTPError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"task {name}: its data set is not here and cannot be fetched: {reason} (offline: fetch it once where "
                "there is a network and copy the folder $HF_HOME, or give local data by a task of your own)"
            ) from error
        except Exception as error:  # a task is a program of its own, which may fail on anything
            raise UserError(f"task {name} cannot be loaded: {type(error).__name__}: {error}") from error
        groups = loaded.get("groups", {})
        tasks.asked.extend([name] if name in groups else loaded["tasks"])  # the name of a tag stands for its tasks
        tasks.leaves.update(loaded["tasks"])
        tasks.groups.update(groups)
    return tasks


def _manager(names: Sequence[str], include_path: str | None) -> TaskManager:
    """Returns what knows all these tasks. lm-eval's own are looked through, which takes some seconds, only where the
    user's folder has not all of them."""
    if include_path is not None:
        if not Path(include_path).is_dir():
            raise UserError(f"there is no folder of tasks {include_path}")
        manager = TaskManager(include_path=include_path, include_defaults=False)
        if all(name in manager.task_index for name in names):
            return manager
    manager = TaskManager(include_path=include_path)
    for name in names:
        if name not in manager.task_index:
            raise UserError(unknown_task(name, [*manager.all_tasks, *SUITES]))
    return manager
