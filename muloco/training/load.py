"""Reading a config: from a Python file or a finished run's config.json, with `--section.field value` on top."""

import contextlib
import copy
import dataclasses
import difflib
import importlib.util
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import tyro

from muloco.training.config import Config
from muloco.training.overrides import settle_length

CHECKOUT = Path(__file__).resolve().parents[2]


class ConfigError(ValueError):
    """The user's config cannot be used; the message is one line that says what to change."""


def load_config(path: str, overrides: Sequence[str] = (), *, prog: str = "muloco train CONFIG") -> Config:
    """The config in a file, with overrides.

    Args:
        path: a Python file with a function `config()` that returns a `Config`, or a run's config.json; relative to the
            current folder or to the checkout.
        overrides: command-line words such as `["--training.steps", "60"]`; with `--help`, prints all fields and exits.
        prog: how the help calls the command.

    Raises:
        ConfigError: no such file, no `config()` in it, unknown or unreadable override.
    """
    file = find_config(path)
    config = _from_json(file) if file.suffix == ".json" else _from_python(file)
    return apply_overrides(config, overrides, prog=prog)


def find_config(path: str) -> Path:
    """The file that `path` means: relative to the current folder, else to the checkout that holds this package."""
    for candidate in (Path(path), CHECKOUT / path):
        if candidate.is_file():
            return candidate.resolve()
    known = [str(file.relative_to(CHECKOUT)) for file in sorted(CHECKOUT.glob("config/*/*.py"))]
    nearest = difflib.get_close_matches(path, known, n=1, cutoff=0.3)
    hint = f"; did you mean {nearest[0]}?" if nearest else f"; configs: {', '.join(known) or 'none'}"
    raise ConfigError(f"there is no config {path}{hint}")


def apply_overrides(config: Config, overrides: Sequence[str], *, prog: str = "muloco train CONFIG") -> Config:
    """A copy of `config` with `--section.field value` words applied.

    Raises:
        ConfigError: unknown name (the message names the nearest one) or a value that does not fit the field.
    """
    words = [_lower_booleans(word) for word in overrides]
    _refuse_unknown(words)
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            overridden = tyro.cli(
                Config,
                default=copy.deepcopy(config),
                args=words,
                prog=prog,
                use_underscores=True,
                config=(tyro.conf.FlagConversionOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(_first_sentence(captured.getvalue())) from None
    settle_length(overridden, words)
    return overridden


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain values, as config.json holds them."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any], *, where: str) -> Config:
    """The config that `to_dict` wrote.

    Raises:
        ConfigError: a section or field that this version does not know; `where` says in which file.
    """
    return _build(Config, values, where, ())


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every field of a config by its full name, `section.field`."""
    fields: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        name = prefix + f.name
        fields |= flatten(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
    return fields


def _build(type_: Any, values: dict[str, Any], where: str, path: tuple[str, ...]) -> Any:
    """An object of a dataclass from nested plain values; `path` are the names that lead to it."""
    types = get_type_hints(type_)
    built = {}
    for name, value in values.items():
        if name not in types:
            unknown = f"field {'.'.join((*path, name))}" if path else f"section {name!r}"
            raise ConfigError(f"{where}: unknown {unknown}{_nearest(name, types)}")
        nested = dataclasses.is_dataclass(types[name])
        built[name] = _build(types[name], value, where, (*path, name)) if nested else value
    return type_(**built)


def _from_python(file: Path) -> Config:
    spec = importlib.util.spec_from_file_location(f"muloco_config_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    root = str(_import_root(file))
    sys.path.insert(0, root)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(root)
    if not callable(getattr(module, "config", None)):
        raise ConfigError(f"{file} has no function config()")
    config = module.config()
    if not isinstance(config, Config):
        raise ConfigError(f"config() in {file} returned {type(config).__name__}, not a muloco.training.config.Config")
    return config


def _import_root(file: Path) -> Path:
    """Where `from config.base import ...` is to be found: above the folder `config` that holds the file."""
    for folder in file.parents:
        if folder.name == "config":
            return folder.parent
    return CHECKOUT


def _from_json(file: Path) -> Config:
    stored = json.loads(file.read_text())
    if not isinstance(stored, dict) or "resolved" not in stored:
        raise ConfigError(f"{file} is not the config.json of a run")
    return from_dict(stored["resolved"], where=str(file))


def _refuse_unknown(words: Sequence[str]) -> None:
    known = list(flatten(Config()))
    for word in words:
        if not word.startswith("--") or word == "--help":
            continue
        name = word[2:].split("=", 1)[0].replace("-", "_")
        if name not in known:
            raise ConfigError(f"unknown option {word.split('=', 1)[0]}{_nearest(name, known, prefix='--')}")


def _nearest(name: str, known, prefix: str = "") -> str:
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {prefix}{match[0]}?" if match else f"; known: {', '.join(known)}"


def _lower_booleans(word: str) -> str:
    return {"true": "True", "false": "False"}.get(word, word)


def _first_sentence(box: str) -> str:
    """tyro's explanation without its frame and its help."""
    lines = [line.strip("│ ").strip() for line in box.splitlines() if line.startswith("│")]
    rule = next((i for i, line in enumerate(lines) if line.startswith("─")), len(lines))
    return " ".join(line for line in lines[:rule] if line and not line.startswith(("Got errors", "-")))
