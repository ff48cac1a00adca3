"""Checks the names of lm-eval's tasks without the slow import of lm-eval. Needs nothing but Python."""

import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from muloco.errors import UserError, naming
from muloco.evals.suites import SUITES, expand
from muloco.suggest import similar

_NAMED = re.compile(rb"^\W*(?:task|group|tag)\s*:\s*[\"']?([\w.+-]+)", re.MULTILINE)


def check_names(names: Sequence[str], include_path: str | None) -> None:
    """Refuses tasks that no YAML file of lm-eval or of the user mentions.

    A name that is mentioned may still not be a task: `muloco.evals.tasks.find_tasks` finds out.

    Args:
        names: of tasks, groups of tasks, or suites.
        include_path: folder with the user's own tasks.

    Raises:
        UserError: the folder does not exist, or a name is unknown; the message has the nearest names.
    """
    with naming("--include-path"):
        missing = include_path is not None and not Path(include_path).is_dir()
    if missing:
        raise UserError(f"there is no folder of tasks {include_path}")
    folders = [_lm_eval_tasks(), None if include_path is None else Path(include_path)]
    left = [name for name in expand(list(names)) if not _has_file(name, folders)]
    if not left:
        return
    known: set[str] = set(SUITES)
    mentioned: set[str] = set()
    for text in _texts(folders):
        known |= {name.decode() for name in _NAMED.findall(text)}
        mentioned |= {name for name in left if name.encode() in text}
    for name in left:
        if name not in mentioned:
            raise UserError(unknown_task(name, sorted(known)))


def unknown_task(name: str, known: Sequence[str]) -> str:
    """Says that there is no such task, and suggests similar ones."""
    matches = similar(name, known, cutoff=0.5, most=3)
    hint = f"; did you mean {' or '.join(matches)}?" if matches else ""
    return f"lm-eval knows no task {name!r}{hint} (own tasks: a folder of YAML files)"


def _has_file(name: str, folders: Sequence[Path | None]) -> bool:
    """Whether a file is named after the task, as for most of lm-eval's, so that no search is needed."""
    return any(
        folder is not None and (folder / where).is_file()
        for folder in folders
        for where in (f"{name}/{name}.yaml", f"{name}.yaml")
    )


def _texts(folders: Sequence[Path | None]) -> Iterator[bytes]:
    for folder in folders:
        for parent, _, files in os.walk(folder) if folder is not None else ():
            for file in files:
                if file.endswith(".yaml"):
                    yield Path(parent, file).read_bytes()


def _lm_eval_tasks() -> Path | None:
    """The folder of lm-eval's own tasks, if it is installed."""
    found = importlib.util.find_spec("lm_eval")
    return (
        Path(next(iter(found.submodule_search_locations)), "tasks")
        if found and found.submodule_search_locations
        else None
    )
