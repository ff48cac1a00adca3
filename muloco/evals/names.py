"""Names of tasks and of suites of tasks, which are checked without the slow import of lm-eval. Needs nothing but
Python."""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from muloco.errors import UserError, naming
from muloco.suggest import similar

SUITES = {
    "paper": ("mmlu", "hellaswag", "piqa", "arc_challenge", "arc_easy", "winogrande", "openbookqa"),
}
"""paper: what the MuLoCo paper's 15B models were evaluated on, zero-shot (PAPER 5.11)."""

_NAMED = re.compile(rb"^\W*(?:task|group|tag)\s*:\s*[\"']?([\w.+-]+)", re.MULTILINE)


def expand(names: list[str] | tuple[str, ...]) -> list[str]:
    """Names of tasks, with those of suites replaced by what is in them; each once, in order."""
    return list(dict.fromkeys(task for name in names for task in SUITES.get(name, (name,))))


def check_names(names: Sequence[str], include_path: str | None) -> None:
    """Refuses names of tasks, groups or suites that no YAML file of lm-eval or in the user's folder mentions. What is
    mentioned may still be no task: `muloco.evals.tasks.load_tasks` finds out.

    Raises:
        UserError: the folder does not exist, or a name is unknown; the message has the nearest names.
    """
    with naming("--include-path"):
        missing = include_path is not None and not Path(include_path).is_dir()
    if missing:
        raise UserError(f"there is no folder of tasks {include_path}")
    folders = [folder for folder in (_lm_eval_tasks(), include_path and Path(include_path)) if folder]
    left = [name for name in expand(list(names)) if not _has_file(name, folders)]
    if not left:
        return
    texts = [file.read_bytes() for folder in folders for file in folder.rglob("*.yaml")]
    for name in left:
        if not any(name.encode() in text for text in texts):
            named = {known.decode() for text in texts for known in _NAMED.findall(text)}
            raise UserError(unknown_task(name, sorted(named | set(SUITES))))


def unknown_task(name: str, known: Sequence[str]) -> str:
    """Says that there is no such task, and suggests similar ones."""
    matches = similar(name, known, cutoff=0.5, most=3)
    hint = f"; did you mean {' or '.join(matches)}?" if matches else ""
    return f"lm-eval knows no task {name!r}{hint} (own tasks: a folder of YAML files)"


def _has_file(name: str, folders: Sequence[Path]) -> bool:
    """Whether a file is named after the task, as for most of lm-eval's, so that no search is needed."""
    return any((folder / file).is_file() for folder in folders for file in (f"{name}/{name}.yaml", f"{name}.yaml"))


def _lm_eval_tasks() -> Path | None:
    """The folder of lm-eval's own tasks, if it is installed."""
    package = importlib.util.find_spec("lm_eval")
    return Path(package.origin).with_name("tasks") if package and package.origin else None
