"""Reads the forms of the paper's repository in a config, and checks all values. Needs nothing but Python."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from muloco.errors import UserError, shown
from muloco.settings import values
from muloco.settings.config import Config
from muloco.settings.fields import field_types, get_field, set_field, unknown_field
from muloco.settings.other_names import PAPER, Values
from muloco.settings.section import Section, full_name, section_name

logger = logging.getLogger(__name__)


def settle(config: Config, *, where: str = "", theirs: bool = False) -> None:
    """Reads what a config holds in the forms of the paper's repository, and checks every field against its annotation,
    in place.

    Sections given as dicts become sections, lists become tuples, whole floats become ints where whole numbers are
    meant. Settings that have another meaning in the paper's repository are logged. In a config of theirs, options that
    muloco does not know are ignored. `where` names the file in messages.

    Raises:
        UserError: the value of a section or a field is not allowed.
    """
    start = f"{where}: " if where else ""
    given, notes = _other_forms(config, start, theirs)
    _check_sections(config, start, "")
    for name, value in given.items():
        set_field(config, name, value)
    for name, annotation in field_types().items():
        try:
            set_field(config, name, values.checked(annotation, get_field(config, name)))
        except values.BadValue as error:
            raise UserError(f"{start}{name} {error}") from None
    for note in notes:
        logger.warning("%s%s", start, note)


def _other_forms(config: Config, start: str, theirs: bool) -> tuple[Values, list[str]]:
    """Values by full name, and notes, for settings in the paper's forms; these are removed from the config."""
    given: Values = {}
    notes: list[str] = []
    unknown: list[str] = []
    paper = False
    for name, section in _take_dicts(config, ""):
        paper = _read(name, section, given, notes, unknown) or paper
    for section in [config, *(getattr(config, f.name) for f in dataclasses.fields(config))]:
        if isinstance(section, Section):
            other = section.other_names()
            paper = _read(section_name(type(section).__name__), dict(other), given, notes, unknown) or paper
            other.clear()
    if unknown and not theirs:
        raise UserError(start + unknown_field(unknown[0]))
    if unknown:
        notes.append(f"ignored, as muloco has no such options: {', '.join(unknown)}")
    if given.get("compression.kind") == "none":
        given = {name: value for name, value in given.items() if not name.startswith("compression.")}
    if given.get("compression.kind") == "topk":  # their top-k sends values as they are
        given.pop("compression.bits", None)
    if given.get("optimizer.name") == "GPA":  # it is a method of its own, whatever the old names say
        for name in [name for name in given if name.startswith(("outer_optimizer.", "fault_tolerance.semi_sync"))]:
            del given[name]
    if paper:
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
    """Reads a section in the paper's forms into the other arguments. Returns whether one of its names is theirs."""
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


def _check_sections(config: Any, start: str, prefix: str) -> None:
    for name, type_ in get_type_hints(type(config)).items():
        if dataclasses.is_dataclass(type_):
            section = getattr(config, name)
            if not isinstance(section, type_):  # type: ignore[arg-type]
                raise UserError(
                    f"{start}section {prefix}{name} must be a {type_.__name__}, or a dict of its fields; "  # type: ignore[union-attr]
                    f"got {shown(section)}"
                )
            _check_sections(section, start, f"{prefix}{name}.")
