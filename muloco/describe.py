"""Describes a resolved config as text, with the origins of its derived values. Needs nothing but Python."""

import dataclasses
import textwrap
from typing import Any

from muloco.resolve import Resolution
from muloco.settings.config import Config

WIDTH = 80


def describe(resolution: Resolution, *, width: int = WIDTH) -> str:
    """Returns all fields by section, one per line, in lines of at most `width` characters. Longer words, such as paths,
    are not broken."""
    config = resolution.config
    lines: list[str] = []
    for name, section in _sections(config, ""):
        lines += [f"[{name}]", *_fields(name, section, resolution, width), ""]
    lines += textwrap.wrap(_amounts(config), width)
    for note in resolution.notes:
        lines += ["", *textwrap.wrap(f"note: {note}", width)]
    return "\n".join(lines)


def _sections(section: Any, prefix: str) -> list[tuple[str, Any]]:
    """The sections of a config, and those nested in them, by full name."""
    sections = []
    for f in dataclasses.fields(section):
        value = getattr(section, f.name)
        if dataclasses.is_dataclass(value):
            sections += [(prefix + f.name, value), *_sections(value, f"{prefix}{f.name}.")]
    return sections


def _fields(name: str, section: Any, resolution: Resolution, width: int) -> list[str]:
    values = {f.name: getattr(section, f.name) for f in dataclasses.fields(section)}
    values = {field: value for field, value in values.items() if not dataclasses.is_dataclass(value)}
    column = max(map(len, values), default=0) + 4
    lines = []
    for field, value in values.items():
        lines += _wrapped(f"  {field}".ljust(column), _word(value), column, width)
        if why := resolution.derived.get(f"{name}.{field}"):
            lines += _wrapped(" " * column, f"derived: {why}", column, width)
    return lines


def _wrapped(start: str, text: str, column: int, width: int) -> list[str]:
    options = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, width, initial_indent=start, subsequent_indent=" " * (column + 2), **options)  # type: ignore[arg-type]


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_word, value)) if value else "(none)"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _amounts(config: Config) -> str:
    training, ranks = config.training, config.ranks_per_worker
    workers = f"{config.workers} worker{'s' * (config.workers > 1)} of {ranks} rank{'s' * (ranks > 1)}"
    return (
        f"{workers} take {training.steps:,} steps of {config.tokens_per_step:,} tokens: {training.tokens:,} tokens. "
        f"The run's folder is {config.run.outputs}/{config.run.name}."
    )
