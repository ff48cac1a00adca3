"""Reads a config from a Python file or a run's config.json, with `--section.field value` on top."""

import contextlib
import dataclasses
import importlib.util
import json
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from muloco.errors import UserError, error_reason, shown
from muloco.settings.annotations import FOLDER_NAME
from muloco.settings.config import Config
from muloco.settings.fields import suggestion
from muloco.settings.other_names import MOVED, PAPER
from muloco.settings.overrides import apply_overrides
from muloco.settings.paper_forms import settle
from muloco.settings.section import full_name, section_name
from muloco.settings.stored import from_dict
from muloco.suggest import did_you_mean

CHECKOUT = Path(__file__).resolve().parents[2]
"""The checkout that this package belongs to; without one, the folder that packages are installed in."""
SHIPPED = CHECKOUT if (CHECKOUT / "config" / "laptop").is_dir() else CHECKOUT / "muloco" / "recipes"
"""The folder that holds `config/` and `jobs/`: the checkout or, where muloco is installed from a wheel, the package."""


def load_config(path: str, overrides: Sequence[str] = (), *, prog: str = "muloco train CONFIG") -> Config:
    """The config in a file, with overrides.

    Args:
        path: a Python file with a function `config()` that returns a `Config`, a config of the paper's repository, a
            run's config.json or the run's folder, relative to the current folder; or a shipped config, such as
            `config/laptop/muloco.py` or, for short, `laptop/muloco`.
        overrides: command-line words such as `["--training.steps", "60"]`; with `--help`, prints all fields and exits.
        prog: how the help calls the command.

    Raises:
        UserError: there is no such file, it cannot be read or run, it holds no config, a value does not fit its
            field, or an override is unknown or unreadable.
    """
    file = find_config(path)
    config = _from_json(file) if file.suffix == ".json" else _from_python(file)
    return apply_overrides(config, overrides, prog=prog)


def find_config(path: str) -> Path:
    """The file that `path` means: relative to the current folder, or one that muloco ships (`laptop/muloco`).

    Raises:
        UserError: there is none, or it is neither a Python file nor a JSON file.
    """
    candidates = (Path(path), Path(path) / "config.json", SHIPPED / path, SHIPPED / "config" / f"{path}.py")
    try:
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        folder = Path(path).is_dir()
    except (OSError, ValueError) as error:
        raise UserError(f"there is no config {shown(path)}: {error_reason(error)}") from error
    if file is None and folder:
        raise UserError(f"{path} is a folder without a config.json: it is neither a config nor the folder of a run")
    if file is None:
        known = [str(file.relative_to(SHIPPED)) for file in sorted(SHIPPED.glob("config/*/*.py"))]
        hint = did_you_mean(path, known) or f"the configs of muloco are in {SHIPPED / 'config'}"
        raise UserError(f"there is no config {path}; {hint}")
    if file.suffix not in (".py", ".json"):
        raise UserError(f"{path} is not a config; allowed are a Python file (.py), a config.json and a run's folder")
    return file.resolve()


def locate(config: Config, file: Path, words: Sequence[str]) -> None:
    """Sets the run's folder in a config, as loaded from a file and with the words of the command line applied, to that
    of its config.json, even if the folder has been renamed or moved. A folder that the words name has precedence; any
    other file than a config.json changes nothing.

    Raises:
        UserError: the folder has been given a name that a run may not have.
    """
    if file.name != "config.json":
        return
    named = {word.split("=", 1)[0] for word in words}
    folder, outputs, here = file.parent, file.parent.parent, Path.cwd()
    if "--run.name" not in named:
        if not FOLDER_NAME.allows(folder.name):
            raise UserError(
                f"{folder}: the folder's name {folder.name!r} cannot be a run's name; rename it to {FOLDER_NAME.words}"
            )
        config.run.name = folder.name
    if "--run.outputs" not in named:
        config.run.outputs = str(outputs.relative_to(here) if outputs.is_relative_to(here) else outputs)


def run_file(file: Path, function: str) -> tuple[ModuleType, Any]:
    """Runs a Python file of the user, which may import modules next to it.

    Args:
        file: absolute path.
        function: a function without parameters that the file defines.

    Returns:
        the module, and what the function returns; None if there is no such function.

    Raises:
        UserError: the file is not Python, or it or the function has raised an exception.
    """
    with users_code(file):
        module = _import(file, f"muloco_{function}_{file.stem}")
        made = getattr(module, function, None)
        return module, made() if callable(made) else None


def users_function(file: Path, name: str) -> Callable[..., Any]:
    """Returns a function that a Python file of the user defines. It is to be called within `users_code`.

    Raises:
        UserError: there is no such file or function, or the file has raised an exception.
    """
    with users_code(file):
        function = getattr(_import(file, f"muloco_{name}_{file.stem}"), name, None)
    if not callable(function):
        raise UserError(f"{file} has no function {name}()")
    return function


@contextlib.contextmanager
def users_code(file: Path) -> Iterator[None]:
    """Within the context, code of a user's Python file may import modules next to it. What it raises becomes a
    UserError that names file and line."""
    folder = str(file.parent)
    sys.path.insert(0, folder)
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # it is a program of the user's, which may raise anything
        raise UserError(_failure_in(file, error)) from error
    finally:
        sys.path.remove(folder)


def _import(file: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _from_python(file: Path) -> Config:
    module, made = run_file(file, "config")
    theirs = not callable(getattr(module, "config", None))
    if theirs:
        made = _of_dicts(module)
    if made is None and not hasattr(module, "config"):
        hint = "; it is a sweep, for `muloco sweep` and `muloco plan`" if hasattr(module, "sweep") else ""
        raise UserError(f"{file} has no function config(){hint}")
    if not isinstance(made, Config):
        raise UserError(f"config() in {file} returned {type(made).__name__}, not a muloco.settings.config.Config")
    settle(made, where=str(file), theirs=theirs)
    if callable(getattr(module, "titan", None)) and made.training.titan is None:
        made.training.titan = str(file)
    return made


def _of_dicts(module: ModuleType) -> Config | None:
    """The config of a file of the paper's repository, which holds a dict for each section; None for any other file."""
    sections = [f.name for f in dataclasses.fields(Config) if isinstance(getattr(module, f.name, None), Mapping)]
    if not sections:
        return None
    config = Config()
    for name in [*sections, *(name for name in PAPER if "." not in name and hasattr(module, name))]:
        setattr(config, name, getattr(module, name))
    return config


def _from_json(file: Path) -> Config:
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # a UnicodeDecodeError is a ValueError
        raise UserError(f"{file} cannot be read: {error_reason(error)}") from error
    if not isinstance(stored, dict) or "resolved" not in stored:
        raise UserError(f"{file} is not the config.json of a run: the entry `resolved` is missing")
    return from_dict(stored["resolved"], where=str(file))


def _failure_in(file: Path, error: BaseException) -> str:
    """One line about an error in a user's Python file: file, line and what was raised."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(file)), None)
    where = f"{file}, line {line}" if line else str(file)
    text = " ".join(str(error).split())
    if unknown := re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", text):
        text += f"; {suggestion(full_name(section_name(unknown[1]), unknown[2]))}"
    if isinstance(error, ImportError) and error.name in MOVED:
        text += f"; since an earlier version it has moved: {MOVED[error.name]}"
    kind = "" if isinstance(error, AttributeError) and " in a config" in text else f"{type(error).__name__}: "
    return f"{where}: {kind}{text}".removesuffix(": ")
