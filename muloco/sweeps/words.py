"""Between values of fields and words of the command line, so that a sweep takes what `muloco train` would take."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from muloco.errors import UserError
from muloco.settings.fields import field_types, unknown_field
from muloco.settings.overrides import by_name
from muloco.settings.values import BadValue, checked, read


def words_of(field: str, value: Any) -> list[str]:
    """The command-line words that set a field: `["--optimizer.lr", "0.02"]`."""
    values = value if isinstance(value, tuple | list) else [value]
    return [f"--{field}", *(repr(float(v)) if isinstance(v, float) else str(v) for v in values)]


def given_by(words: Sequence[str]) -> dict[str, Any]:
    """Returns the values by field that `--section.field value` words set. Raises UserError for an unknown name or an
    unreadable value."""
    return {field: _value(f"--{field}", field, read, values) for field, values in by_name(words).items()}


def checked_point(point: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a point as the fields of a config keep them. Raises UserError for an unknown field or a
    value that is not allowed."""
    return {field: _value(field, field, checked, value) for field, value in point.items()}


def _value(name: str, field: str, convert: Callable[[Any, Any], Any], value: Any) -> Any:
    if field not in field_types():
        raise UserError(unknown_field(field))
    try:
        return convert(field_types()[field], value)
    except BadValue as error:
        raise UserError(f"{name} {error}") from None
