"""Checks of values from a Python file, a config.json or a command line against the annotations of their fields.

It knows every type that a section of the config uses: bool, int, float, str, Literal, tuples of these of any
length, unions, and Annotated with bounds (`muloco.settings.annotations`). Needs nothing but Python.
"""

import argparse
import math
import numbers
import os
import re
import types
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from muloco.errors import shown
from muloco.settings.annotations import JOINED, Mark
from muloco.suggest import did_you_mean

LARGEST = 2**63 - 1
"""The largest whole number that torch, numpy and the files of a run can hold."""


class BadValue(ValueError):
    """A value is not allowed; the message continues after the name of the field."""


def checked(annotation: Any, value: Any) -> Any:
    """The value as the field keeps it: lists become tuples, whole floats become ints, numpy's numbers become plain
    ones.

    Raises:
        BadValue: the value has another type, or is out of bounds.
    """
    base, bounds = _parts(annotation)
    if JOINED in bounds and isinstance(value, (list, tuple)):
        return checked(annotation, ",".join(checked(str, name) for name in value))
    converted = _converted(base, value)
    for bound in bounds:
        if converted is not None and not bound.allows(converted):
            raise BadValue(f"must be {bound.words}; got {shown(value)}")
    return converted


def read(annotation: Any, words: Sequence[str]) -> Any:
    """The value of a field from words of a command line.

    Raises:
        BadValue: the words cannot be read, or the value is not allowed.
    """
    options = _options(annotation)
    lists = [option for option in options if _is_list(option)]
    alone = [option for option in options if not _is_list(option)]
    if len(words) == 1 and (words[0] == "None" if alone == [type(None)] else alone):
        return checked(annotation, _value(alone, words[0]))
    if lists:
        entry = get_args(_parts(lists[0])[0])[0]
        return checked(annotation, [_value(_options(entry), word) for word in words])
    what = f"takes one value; got {' '.join(words)}" if words else "has no value"
    raise BadValue(f"{what}; it must be {described(annotation)}")


def option_type(annotation: Any) -> Callable[[str], Any]:
    """The type of a command's own option, for argparse: its values are written as those of a field with this annotation
    (`muloco.settings.annotations`), such as 1e9 for a whole number.

    Raises:
        ArgumentTypeError: a word is no such value.
    """

    def read_word(word: str) -> Any:
        try:
            return read(annotation, [word])
        except BadValue as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read_word


def described(annotation: Any) -> str:
    """The allowed values of a field, in words."""
    base, bounds = _parts(annotation)
    origin = get_origin(base)
    if base is type(None):
        return "None"
    if _is_union(base):
        return ", or ".join(map(described, get_args(base)))
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(base)))}"
    if origin is tuple:
        return f"a list, each entry {described(get_args(base)[0])}"
    if base is str and bounds:
        return bounds[0].words
    kind = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[base]
    limits = (f"of {bound.words}" if bound.words.startswith(("at least", "0 or")) else bound.words for bound in bounds)
    return " ".join([kind, *limits])


def _converted(base: Any, value: Any) -> Any:
    origin = get_origin(base)
    if _is_union(base):
        return _of_union(base, value)
    if origin is Literal:
        return _choice(get_args(base), value)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise _mismatch(base, value)
        return tuple(checked(get_args(base)[0], entry) for entry in value)
    if base is bool and type(value).__name__ in ("bool", "bool_"):  # numpy's is of another type
        return bool(value)
    if base is int:
        return _whole(value)
    if base is float and _is_number(value):
        return _finite(value)
    if base is str and isinstance(value, (str, os.PathLike)):
        return _text(os.fspath(value))
    raise _mismatch(base, value)


def _of_union(base: Any, value: Any) -> Any:
    options = get_args(base)
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if len(options) == 1:
        return checked(options[0], value)
    for option in options:  # the first whose type it has: a text, or a list of texts; a whole number, or any
        kind = _parts(option)[0]
        if (
            (kind is str and isinstance(value, (str, os.PathLike)))
            or (get_origin(kind) is tuple and isinstance(value, (list, tuple)))
            or (kind is int and isinstance(value, numbers.Integral) and _is_number(value))
            or (kind is float and _is_number(value))
        ):
            return checked(option, value)
    raise _mismatch(base, value)


def _choice(choices: Sequence[Any], value: Any) -> Any:
    same = [choice for choice in choices if isinstance(value, str) and choice.lower() == value.lower()]
    if same:
        return value if value in same else same[0]
    hint = did_you_mean(value, choices, cutoff=0.5) if isinstance(value, str) else ""
    raise BadValue(f"must be one of {', '.join(choices)}; got {shown(value)}{f'; {hint}' if hint else ''}")


def _whole(value: Any) -> int:
    if not _is_number(value):
        raise _mismatch(int, value)
    if not isinstance(value, numbers.Integral) and (not math.isfinite(value) or value != int(value)):
        raise BadValue(f"must be a whole number; got {value}")
    if abs(int(value)) > LARGEST:
        raise BadValue(f"must be a whole number of at most {LARGEST}; got {shown(int(value))}")
    return int(value)


def _finite(value: Any) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadValue(f"must be a finite number; got {shown(value)}")
    return number


def _text(value: str) -> str:
    if not isinstance(value, str):  # a path may be bytes
        raise _mismatch(str, value)
    try:
        value.encode()
    except UnicodeEncodeError:  # a word of the command line with other bytes
        raise BadValue(f"is not UTF-8; got {shown(value)}") from None
    if any(not character.isprintable() for character in value):
        raise BadValue(f"must be a text without line breaks and control characters; got {shown(value)}")
    return str(value)


def _mismatch(annotation: Any, value: Any) -> BadValue:
    kind = "" if value is None else "the text " if isinstance(value, str) else f"the {type(value).__name__} "
    return BadValue(f"must be {described(annotation)}; got {kind}{shown(value)}")


def _value(options: Sequence[Any], word: str) -> Any:
    """The value of a word, given the types of a field. Any other word stays a text, which `checked` refuses."""
    kinds = [_parts(option)[0] for option in options]
    if type(None) in kinds and word == "None":
        return None
    if bool in kinds:
        return {"true": True, "false": False}.get(word.lower(), word)
    if int in kinds and float in kinds:  # a point tells them apart
        number = _number(word)
        return int(number) if "." not in word and isinstance(number, float) and number.is_integer() else number
    return _number(word) if int in kinds or float in kinds else word


def _number(word: str) -> Any:
    if re.fullmatch(r"[+-]?\d[\d_]*", word):
        return int(word) if len(word) < 1000 else word  # Python itself refuses to read very long ones
    try:
        return float(word)
    except ValueError:
        return word


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and type(value).__name__ not in ("bool", "bool_")


def _parts(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    if get_origin(annotation) is Annotated:
        base, *bounds = get_args(annotation)
        return base, tuple(bound for bound in bounds if not isinstance(bound, Mark))
    return annotation, ()


def _is_union(base: Any) -> bool:
    return get_origin(base) in (Union, types.UnionType)


def _options(annotation: Any) -> list[Any]:
    """The members of a union; for any other type, the type itself."""
    base, _ = _parts(annotation)
    return list(get_args(base)) if _is_union(base) else [annotation]


def _is_list(annotation: Any) -> bool:
    return get_origin(_parts(annotation)[0]) is tuple
