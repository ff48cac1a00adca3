"""Between values of fields and words of the command line, so that a sweep takes what `muloco train` would take."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from muloco.training.config import Config
from muloco.training.load import ConfigError, apply_overrides, flatten


def words_of(field: str, value: Any) -> list[str]:
    """The command-line words that set a field: `["--optimizer.lr", "0.02"]`."""
    if isinstance(value, (tuple, list)):
        return [f"--{field}", *map(_word, value)]
    return [f"--{field}", _word(value)]


def given_by(words: Sequence[str]) -> dict[str, Any]:
    """Values by field that `--section.field value` words set.

    Raises:
        ConfigError: unknown name or unreadable value.
    """
    parsed = flatten(apply_overrides(Config(), words))
    names = [word[2:].split("=", 1)[0].replace("-", "_") for word in words if word.startswith("--")]
    return {name: parsed[name] for name in names}


class Reader:
    """Reads the values of points through the command line's own parser, each value once.

    Fields are independent of each other for the parser; so one call reads a value of each field, and a sweep takes as
    many calls as its longest axis has values, instead of one for each point.
    """

    def __init__(self, points: Iterable[Mapping[str, Any]]):
        self._read: dict[tuple[str, ...], Any] = {}
        left: dict[str, dict[tuple[str, ...], None]] = {}
        for point in points:
            for field, value in point.items():
                left.setdefault(field, {})[tuple(words_of(field, value))] = None
        while left:
            self._read_together([next(iter(values)) for values in left.values()])
            for values in left.values():
                values.pop(next(iter(values)))
            left = {field: values for field, values in left.items() if values}

    def values(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a point as the parser reads them.

        Raises:
            ConfigError: it does not know a field, or cannot read a value.
        """
        found = {field: self._read[tuple(words_of(field, value))] for field, value in point.items()}
        for field, value in found.items():
            if isinstance(value, ConfigError):
                raise value
            if value != (tuple(point[field]) if isinstance(point[field], list) else point[field]):
                raise ConfigError(f"{field} {point[field]!r} would be read as {value!r} on the command line")
        return found

    def _read_together(self, options: list[tuple[str, ...]]) -> None:
        try:
            parsed = flatten(apply_overrides(Config(), [word for option in options for word in option]))
            self._read |= {option: parsed[option[0][2:]] for option in options}
        except ConfigError as error:
            if len(options) == 1:
                self._read[options[0]] = error
                return
            for option in options:
                self._read_together([option])


def _word(value: Any) -> str:
    return repr(float(value)) if isinstance(value, float) else str(value)
