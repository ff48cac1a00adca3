"""Describes a resolved config as text, with the origins of its derived values. Needs nothing but Python."""

import itertools
import textwrap
from typing import Any

from muloco.model.flavors import flavor
from muloco.model.stepped import stepped
from muloco.resolve import Resolution
from muloco.settings.config import Config, ResolvedConfig
from muloco.settings.fields import flatten

WIDTH = 80


def describe(resolution: Resolution) -> str:
    """Returns all fields by section, one per line, in lines of at most `WIDTH` characters unless a word is longer."""
    config = resolution.config
    lines: list[str] = []
    for section, named in itertools.groupby(flatten(config).items(), key=lambda field: field[0].rpartition(".")[0]):
        values = {name.removeprefix(f"{section}."): value for name, value in named}
        lines += [f"[{section}]", *_fields(section, values, resolution), ""]
    lines += [describe_roles(resolution.config), ""]
    lines += textwrap.wrap(_amounts(config), WIDTH)
    for note in resolution.notes:
        lines += ["", *textwrap.wrap(f"note: {note}", WIDTH)]
    return "\n".join(lines)


def describe_roles(config: ResolvedConfig) -> str:
    """Returns which rule steps the parameters of each role, how many there are, and an example of each form that they
    have."""
    chosen, size = config.optimizer, flavor(config.model.flavor)
    lines = ["parameters by role:"]
    for group in stepped(size, chosen.rules(), chosen.choices()):
        number, name = len(group.shapes), next(iter(group.shapes))
        tensors = f"{number} tensor{'s' * (number > 1)}"
        lines.append(f"  {group.role:<10} {group.rule:<8} {tensors:>13}  {group.parameters:>15,} elements")
        example = f"{name} {group.matrices(name)}"
        lines += [" " * 13 + line for line in ([example] if len(example) <= WIDTH - 13 else example.split(" ", 1))]
    return "\n".join(lines)


def _fields(section: str, values: dict[str, Any], resolution: Resolution) -> list[str]:
    column = max(map(len, values)) + 4
    lines = []
    for field, value in values.items():
        lines += _wrapped(f"  {field}".ljust(column), _word(value), column)
        if why := resolution.derived.get(f"{section}.{field}"):
            lines += _wrapped(" " * column, f"derived: {why}", column)
    return lines


def _wrapped(start: str, text: str, column: int) -> list[str]:
    options = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=" " * (column + 2), **options)  # type: ignore[arg-type]


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
