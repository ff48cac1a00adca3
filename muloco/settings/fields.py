"""The fields of a config by their full names, `section.field`. Needs nothing but Python."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from muloco.settings.annotations import Mark
from muloco.settings.config import Config
from muloco.settings.other_names import hint


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
    return {name: annotation for name, annotation, _ in _fields_below(Config)}


def identity(config: Config) -> dict[str, Any]:
    """The fields by full name that identify a run: all but those that a resume may change."""
    return {name: value for name, value in flatten(config).items() if marks()[name] is not Mark.MAY_CHANGE}


def common_settings(config: Config) -> dict[str, Any]:
    """The fields by full name, in alphabetical order, that have the same values on all workers of a run, except those
    without a value, such as the settings of other codecs. K, H, tau and the fragments are not among them, because the
    outer loop itself compares them."""
    values = sorted(flatten(config).items())
    return {name: value for name, value in values if marks()[name] is Mark.COMMON and value is not None}


@functools.cache
def marks() -> dict[str, Mark | None]:
    """The mark of every field, which may be that of its section, by its full name."""
    return {name: mark for name, _, mark in _fields_below(Config)}


def get_field(config: Config, name: str) -> Any:
    """The value of a field by its full name."""
    return functools.reduce(getattr, name.split("."), config)


def set_field(config: Config, name: str, value: Any) -> None:
    """Sets a field by its full name."""
    section, _, last = name.rpartition(".")
    setattr(get_field(config, section), last, value)


def unknown_field(name: str) -> str:
    """Says that there is no field of that full name, and suggests a similar one."""
    return f"unknown field {name}; {suggestion(name)}"


def suggestion(name: str, known: Mapping[str, Any] | None = None) -> str:
    return hint(name, field_types() if known is None else known, prefix="")


def _fields_below(type_: type, prefix: str = "", above: Mark | None = None) -> Iterator[tuple[str, Any, Mark | None]]:
    """Full name, annotation and mark of every field; a field without a mark has that of its section."""
    for name, annotation in get_type_hints(type_, include_extras=True).items():
        mark = next((mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Mark)), above)
        if section := section_class(annotation):
            yield from _fields_below(section, f"{prefix}{name}.", mark)
        else:
            yield prefix + name, annotation, mark


def section_class(annotation: Any) -> type | None:
    """The class of a section, marked or not; None for the type of a field."""
    base = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return base if dataclasses.is_dataclass(base) else None  # type: ignore[return-value]
