"""Reads a config from a Python file or a run's config.json, with `--section.field value` on top."""

import contextlib
import copy
import dataclasses
import difflib
import functools
import importlib.util
import json
import logging
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from muloco.errors import UserError
from muloco.settings import values
from muloco.settings.bounds import FolderName
from muloco.settings.config import Config
from muloco.settings.other_names import PAPER, Values, hint
from muloco.settings.overrides import settle_length
from muloco.settings.section import Section, full_name, section_name

CHECKOUT = Path(__file__).resolve().parents[2]
"""The checkout that this package belongs to; without one, the folder that packages are installed in."""
SHIPPED = CHECKOUT if (CHECKOUT / "config" / "laptop").is_dir() else CHECKOUT / "muloco" / "recipes"
"""The folder that holds `config/` and `jobs/`: the checkout or, where muloco is installed from a wheel, the package."""

logger = logging.getLogger(__name__)


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
        raise UserError(f"there is no config {values.shown(path)}: {error_reason(error)}") from error
    if file is None and folder:
        raise UserError(f"{path} is a folder without a config.json: it is neither a config nor the folder of a run")
    if file is None:
        known = [str(file.relative_to(SHIPPED)) for file in sorted(SHIPPED.glob("config/*/*.py"))]
        nearest = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
        hint = f"; did you mean {nearest[0]}?" if nearest else f"; the configs of muloco are in {SHIPPED / 'config'}"
        raise UserError(f"there is no config {path}{hint}")
    if file.suffix not in (".py", ".json"):
        raise UserError(f"{path} is not a config; allowed are a Python file (.py), a config.json and a run's folder")
    return file.resolve()


def apply_overrides(config: Config, overrides: Sequence[str], *, prog: str = "muloco train CONFIG") -> Config:
    """A copy of `config` with `--section.field value` words applied.

    Raises:
        UserError: a name is unknown (the message suggests a similar one), or a value is not allowed.
    """
    if "--help" in overrides:
        show_help(config, prog=prog)
    changed = copy.deepcopy(config)
    settle(changed)
    for name, words in by_name(overrides).items():
        try:
            set_field(changed, name, values.read(field_types()[name], words))
        except values.BadValue as error:
            raise UserError(f"--{name} {error}") from None
    settle_length(changed, overrides)
    return changed


def by_name(words: Sequence[str]) -> dict[str, list[str]]:
    """Words of a command line by the field that they belong to; of a field that is given twice, the last ones.

    Raises:
        UserError: a word belongs to no option, or there is no such option.
    """
    found: dict[str, list[str]] = {}
    last: list[str] | None = None
    for word in words:
        if word.startswith("--"):
            option, *last = word.split("=", 1)
            name = option[2:].replace("-", "_")
            if name not in field_types():
                raise UserError(f"unknown option {option}; {hint(name, field_types())}")
            found[name] = last
        elif last is None:
            raise UserError(f"unexpected word {word!r}: options are --section.field value")
        else:
            last.append(word)
    return found


def show_help(config: Config, *, prog: str) -> None:
    """Prints all fields with the values of a config, and exits."""
    import tyro

    tyro.cli(
        Config,
        default=config,
        args=["--help"],
        prog=prog,
        use_underscores=True,
        config=(tyro.conf.FlagConversionOff,),
    )


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain values, as config.json holds them."""
    return dataclasses.asdict(config)


def from_dict(stored: dict[str, Any], *, where: str) -> Config:
    """The config that `to_dict` wrote.

    Raises:
        UserError: a section or field that this version does not know, or a value that does not fit; `where` says in
            which file.
    """
    config = _build(Config, stored, where, ())
    settle(config, where=where)
    return config


def locate(config: Config, file: Path, words: Sequence[str]) -> None:
    """Sets the run's folder to that of its config.json, even if the folder has been renamed or moved.

    Args:
        config: as loaded from the file, with the words applied; changed in place.
        file: absolute path; any other file than a config.json changes nothing.
        words: of the command line; a folder that they name has precedence.

    Raises:
        UserError: the folder has been given a name that a run may not have.
    """
    if file.name != "config.json":
        return
    named = {word.split("=", 1)[0] for word in words}
    folder, outputs, here = file.parent, file.parent.parent, Path.cwd()
    if "--run.name" not in named:
        if not FolderName().allows(folder.name):
            raise UserError(
                f"{folder}: the folder's name {folder.name!r} cannot be a run's name; rename it to {FolderName.words}"
            )
        config.run.name = folder.name
    if "--run.outputs" not in named:
        config.run.outputs = str(outputs.relative_to(here) if outputs.is_relative_to(here) else outputs)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every field of a config by its full name, `section.field`."""
    fields: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        name = prefix + f.name
        fields |= flatten(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
    return fields


@functools.cache
def field_types() -> dict[str, Any]:
    """The annotation of every field by its full name."""
    return _types_below(Config, "")


def check_option(option: str, annotation: Any, value: Any) -> None:
    """Raises UserError if the value of a command's option does not match an annotation (`muloco.settings.bounds`)."""
    try:
        values.checked(annotation, value)
    except values.BadValue as error:
        raise UserError(f"{option} {error}") from None


def error_reason(error: Exception) -> str:
    """The reason of an error, without its number and without the path."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


@contextlib.contextmanager
def naming(option: str) -> Iterator[None]:
    """Within the context, errors of the file system become a UserError that names the option and the path."""
    try:
        yield
    except OSError as error:
        path = "" if error.filename is None else f" {values.shown(str(error.filename))}"
        raise UserError(f"{option}{path}: {error_reason(error)}") from error


def unknown_field(name: str) -> str:
    """Says that there is no field of that full name, and suggests a similar one."""
    return f"unknown field {name}; {_hint(name)}"


def set_field(config: Config, name: str, value: Any) -> None:
    """Sets a field by its full name."""
    *sections, last = name.split(".")
    section: Any = config
    for part in sections:
        section = getattr(section, part)
    setattr(section, last, value)


def settle(config: Config, *, where: str = "", theirs: bool = False) -> None:
    """Reads what a config holds in the forms of the paper's repository, and checks every field against its annotation.

    Sections given as dicts become sections, lists become tuples, whole floats become ints where whole numbers are
    meant. Settings that have another meaning in the paper's repository are logged.

    Args:
        config: changed in place.
        where: the file that it comes from, for messages; may be empty.
        theirs: whether it is a config of the paper's repository, in which options that muloco does not know are
            ignored.

    Raises:
        UserError: the value of a section or a field is not allowed.
    """
    given, notes = _other_forms(config, where, theirs)
    _check_sections(config, where, "")
    for name, value in given.items():
        set_field(config, name, value)
    for name, annotation in field_types().items():
        try:
            set_field(config, name, values.checked(annotation, get_field(config, name)))
        except values.BadValue as error:
            raise UserError(f"{_prefix(where)}{name} {error}") from None
    for note in notes:
        logger.warning("%s%s", _prefix(where), note)


def get_field(config: Config, name: str) -> Any:
    """The value of a field by its full name."""
    return functools.reduce(getattr, name.split("."), config)


def _other_forms(config: Config, where: str, theirs: bool) -> tuple[Values, list[str]]:
    """Values by full name, and notes, for settings in the paper's forms; these are removed from the config."""
    given: Values = {}
    notes: list[str] = []
    unknown: list[str] = []
    found = False
    for name, section in _take_dicts(config, ""):
        found = _read(name, section, given, notes, unknown) or found
    for section in [config, *(getattr(config, f.name) for f in dataclasses.fields(config))]:
        if isinstance(section, Section):
            other = section.other_names()
            found = _read(section_name(type(section).__name__), dict(other), given, notes, unknown) or found
            other.clear()
    if unknown and not theirs:
        raise UserError(_prefix(where) + unknown_field(unknown[0]))
    if unknown:
        notes.append(f"ignored, as muloco has no such options: {', '.join(unknown)}")
    if given.get("compression.kind") == "none":
        given = {name: value for name, value in given.items() if not name.startswith("compression.")}
    if given.get("compression.kind") == "topk":  # their top-k sends values as they are
        given.pop("compression.bits", None)
    if given.get("optimizer.name") == "GPA":  # it is a method of its own, whatever the old names say
        for name in [name for name in given if name.startswith(("outer_optimizer.", "fault_tolerance.semi_sync"))]:
            del given[name]
    if found:
        notes += [
            "training.global_batch_size counts the sequences of all workers together; the paper's repository counts "
            "those of one worker",
            "training.steps is the number of steps that are trained; the paper's repository needs one more than that",
        ]
    return given, notes


def _take_dicts(section: Any, prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The sections below `section` that are dicts, by full name. Each is replaced by a section with its defaults."""
    for name, type_ in get_type_hints(type(section)).items():
        if not dataclasses.is_dataclass(type_):
            continue
        inner = getattr(section, name)
        if isinstance(inner, Mapping):
            setattr(section, name, type_())  # type: ignore[operator]
            yield prefix + name, inner
        elif isinstance(inner, Section):
            yield from _take_dicts(inner, f"{prefix}{name}.")


def _read(section: str, stored: Mapping[str, Any], given: Values, notes: list[str], unknown: list[str]) -> bool:
    """Reads a section in the paper's forms into `given`, `notes` and `unknown` names. Returns whether a name is
    theirs."""
    theirs = False
    for name, value in stored.items():
        full = full_name(section, str(name))
        below = f"{full}."
        if full in PAPER:
            theirs = True
            if isinstance(value, Mapping) and any(other.startswith(below) for other in PAPER):
                _read(full, value, given, notes, unknown)
                continue
            given |= PAPER[full].read(value)
            if note := PAPER[full].note(value):
                notes.append(f"{full} {note}")
        elif full in field_types():
            given.setdefault(full, value)
        elif isinstance(value, Mapping) and any(field.startswith(below) for field in field_types()):
            _read(full, value, given, notes, unknown)
        else:
            unknown.append(full)
    return theirs


def _check_sections(config: Any, where: str, prefix: str) -> None:
    for name, type_ in get_type_hints(type(config)).items():
        if dataclasses.is_dataclass(type_):
            section = getattr(config, name)
            if not isinstance(section, type_):  # type: ignore[arg-type]
                raise UserError(
                    f"{_prefix(where)}section {prefix}{name} must be a {type_.__name__}, or a dict of its fields; "  # type: ignore[union-attr]
                    f"got {values.shown(section)}"
                )
            _check_sections(section, where, f"{prefix}{name}.")


def _types_below(type_: type, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, annotation in get_type_hints(type_, include_extras=True).items():
        nested = dataclasses.is_dataclass(annotation)
        found |= _types_below(annotation, f"{prefix}{name}.") if nested else {prefix + name: annotation}
    return found


def _build(type_: Any, stored: Any, where: str, path: tuple[str, ...]) -> Any:
    """An object of a dataclass from nested plain values; `path` are the names that lead to it."""
    if not isinstance(stored, dict):
        what = f"section {'.'.join(path)}" if path else "the config"
        raise UserError(f"{where}: {what} must hold fields by name; got {values.shown(stored)}")
    types = get_type_hints(type_)
    built = {}
    for name, value in stored.items():
        full = ".".join((*path, name))
        if name not in types:
            unknown = f"field {full}" if path else f"section {name!r}"
            raise UserError(f"{where}: unknown {unknown}; {_hint(full, types if not path else None)}")
        nested = dataclasses.is_dataclass(types[name])
        built[name] = _build(types[name], value, where, (*path, name)) if nested else value
    return type_(**built)


def _from_python(file: Path) -> Config:
    spec = importlib.util.spec_from_file_location(f"muloco_config_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(file.parent)  # a config may import modules next to it
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
        made = module.config() if callable(getattr(module, "config", None)) else _of_dicts(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a config is a program of the user's: it may raise anything
        raise UserError(failure_in(file, error)) from error
    finally:
        sys.path.remove(folder)
    if made is None and not hasattr(module, "config"):
        hint = "; it is a sweep, for `muloco sweep` and `muloco plan`" if hasattr(module, "sweep") else ""
        raise UserError(f"{file} has no function config(){hint}")
    if not isinstance(made, Config):
        raise UserError(f"config() in {file} returned {type(made).__name__}, not a muloco.settings.config.Config")
    settle(made, where=str(file), theirs=not callable(getattr(module, "config", None)))
    return made


def failure_in(file: Path, error: BaseException) -> str:
    """One line about an error in a user's Python file: file, line and what was raised."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(file)), None)
    where = f"{file}, line {line}" if line else str(file)
    text = " ".join(str(error).split())
    if unknown := re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", text):
        text += f"; {_hint(full_name(section_name(unknown[1]), unknown[2]))}"
    kind = "" if isinstance(error, AttributeError) and " in a config" in text else f"{type(error).__name__}: "
    return f"{where}: {kind}{text}".removesuffix(": ")


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


def _hint(name: str, known: Mapping[str, Any] | None = None) -> str:
    return hint(name, field_types() if known is None else known, prefix="")


def _prefix(where: str) -> str:
    return f"{where}: " if where else ""
