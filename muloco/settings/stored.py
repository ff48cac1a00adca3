"""Configs as nested plain values, as a run's config.json holds them. Needs nothing but Python."""

import dataclasses
from typing import Any, get_type_hints

from muloco.errors import UserError, shown
from muloco.settings.config import Config
from muloco.settings.fields import suggestion
from muloco.settings.paper_forms import settle


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
    config.optimizer.open_usual_rules()  # or --optimizer.name would not change them
    settle(config, where=where)
    return config


def _build(type_: Any, stored: Any, where: str, path: tuple[str, ...]) -> Any:
    """An object of a dataclass from nested plain values; `path` are the names that lead to it."""
    if not isinstance(stored, dict):
        what = f"section {'.'.join(path)}" if path else "the config"
        raise UserError(f"{where}: {what} must hold fields by name; got {shown(stored)}")
    types = get_type_hints(type_)
    built = {}
    for name, value in stored.items():
        full = ".".join((*path, name))
        if name not in types:
            unknown = f"field {full}" if path else f"section {name!r}"
            raise UserError(f"{where}: unknown {unknown}; {suggestion(full, types if not path else None)}")
        nested = dataclasses.is_dataclass(types[name])
        built[name] = _build(types[name], value, where, (*path, name)) if nested else value
    return type_(**built)
