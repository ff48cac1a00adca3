"""What fields take, from a Python config, from config.json and from the command line."""

import re
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np
import pytest

from muloco.errors import UserError
from muloco.settings.annotations import (
    LONGEST_NAME,
    Count,
    Momentum,
    Name,
    Names,
    Positive,
    Seconds,
    Seed,
    Share,
    SomeShare,
)
from muloco.settings.config import Config
from muloco.settings.fields import field_types, get_field, set_field
from muloco.settings.paper_forms import settle
from muloco.settings.values import BadValue, checked, described, read

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("annotation", "words", "value"),
    [
        (Count, ["3e9"], 3_000_000_000),
        (Count, ["1e3"], 1000),
        (Count, ["1_000"], 1000),
        (Count, ["7.0"], 7),
        (Count | None, ["None"], None),
        (Positive, ["1e-3"], 0.001),
        (Positive, ["2"], 2.0),
        (bool, ["True"], True),
        (bool, ["false"], False),
        (Literal["AdamW", "Muon"], ["muon"], "Muon"),
        (Literal["none", "topk"] | None, ["none"], "none"),
        (Literal["none", "topk"] | None, ["None"], None),
        (str | tuple[str, ...], ["a"], "a"),
        (str | tuple[str, ...], ["a", "b"], ("a", "b")),
        (tuple[str, ...], [], ()),
        (tuple[Positive, ...] | None, ["1", "0.5"], (1.0, 0.5)),
        (tuple[Positive, ...] | None, ["None"], None),
        (tuple[int | float, ...], ["1.0", "1", "0.25", "1e2"], (1.0, 1, 0.25, 100)),
        (str, ["007"], "007"),
        (Name | None, ["a-b_c.1+2=3,4"], "a-b_c.1+2=3,4"),
    ],
)
def test_words_of_the_command_line(annotation: Any, words: list[str], value: Any) -> None:
    found = read(annotation, words)
    assert found == value and type(found) is type(value)
    if isinstance(value, tuple):
        assert [type(entry) for entry in found] == [type(entry) for entry in value]


@pytest.mark.parametrize(
    ("annotation", "given", "value"),
    [
        (Count, np.int64(3), 3),
        (Count, 1e3, 1000),
        (Positive, np.float32(0.5), 0.5),
        (Positive, 1, 1.0),
        (bool, np.bool_(True), True),
        (str, Path("a/b"), "a/b"),
        (tuple[str, ...], ["a", "b"], ("a", "b")),
        (tuple[Names, ...], [["a", "b"], "c,d"], ("a,b", "c,d")),
    ],
)
def test_values_of_python_configs(annotation: Any, given: Any, value: Any) -> None:
    found = checked(annotation, given)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("annotation", "given", "message"),
    [
        (Count, 0, "must be at least 1; got 0"),
        (Count, 1.5, "must be a whole number; got 1.5"),
        (Count, True, "must be a whole number; got the bool True"),
        (Count, NAN, "must be a whole number; got nan"),
        (Count, INFINITY, "must be a whole number; got inf"),
        (Count, 2**63, "must be a whole number of at most 9223372036854775807; got 9223372036854775808"),
        (Count, None, "must be a whole number; got None"),
        (Count | None, {}, "must be a whole number; got the dict {}"),
        (Positive, "0.02", "must be a number; got the text '0.02'"),
        (Positive, 10**400, "must be a finite number; got 1000"),
        (Positive, NAN, "must be a finite number; got nan"),
        (Seconds, INFINITY, "must be a finite number; got inf"),
        (Seconds, 4e7, "must be above 0 and at most 31536000; got 4"),
        (Momentum, 1, "must be from 0 to below 1; got 1"),
        (Share, 1.1, "must be from 0 to 1; got 1.1"),
        (SomeShare, 0, "must be above 0 and at most 1; got 0"),
        (Seed, -1, "must be from 0 to 9223372036854775807; got -1"),
        (bool, 1, "must be true or false; got the int 1"),
        (Literal["torchft", "in_process"], "inprocess", "got 'inprocess'; did you mean in_process?"),
        (
            Literal["bfloat16", "float32"],
            "bf16",
            "must be one of bfloat16, float32; got 'bf16'; did you mean bfloat16?",
        ),
        (str, 3, "must be a text; got the int 3"),
        (str, "a\0b", "must be a text without line breaks and control characters; got 'a\\x00b'"),
        (str, "b\udcff.txt", "is not UTF-8; got 'b\\udcff.txt'"),
        (tuple[str, ...], "abc", "must be a list, each entry a text; got the text 'abc'"),
        (tuple[Positive, ...], (1.0, 0.0), "must be above 0; got 0.0"),
        *((Name, name, "must be the name of a folder") for name in ("", "..", ".a", "-a", "a b", "a/b", "é")),
        (Name, "x" * (LONGEST_NAME + 1), "up to 200 letters"),
        (Name, "a\n", "must be a text without line breaks"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(annotation: Any, given: Any, message: str) -> None:
    with pytest.raises(BadValue) as refusal:
        checked(annotation, given)
    text = str(refusal.value)
    assert message in text and "\n" not in text and len(text) < 250


@pytest.mark.parametrize(
    ("annotation", "words", "message"),
    [
        (Count, [], "has no value; it must be a whole number of at least 1"),
        (Count, ["1", "2"], "takes one value; got 1 2"),
        (Count, ["many"], "must be a whole number; got the text 'many'"),
        (Count, ["9" * 5000], "must be a whole number"),
        (Count | None, [], "it must be a whole number of at least 1, or None"),
        (SomeShare | None, [], "it must be a number above 0 and at most 1, or None"),
        (bool, ["yes"], "must be true or false; got the text 'yes'"),
    ],
)
def test_words_that_are_no_value_are_refused(annotation: Any, words: list[str], message: str) -> None:
    with pytest.raises(BadValue, match=re.escape(message)):
        read(annotation, words)


@pytest.mark.parametrize("field", field_types())
def test_every_field_has_a_type_that_is_checked(field: str) -> None:
    """The default fits, and neither an object of a foreign type nor a number that no one can mean does."""
    config = Config()
    assert described(field_types()[field])
    assert checked(field_types()[field], get_field(config, field)) == get_field(config, field)
    for nonsense in (object(), NAN, -INFINITY, -1, "\0", {}, [object()], [NAN], b"x"):
        with pytest.raises(BadValue):
            checked(field_types()[field], nonsense)
    set_field(config, field, object())
    with pytest.raises(UserError, match=rf"^{re.escape(field)} must be "):
        settle(config)


@pytest.mark.parametrize("section", get_type_hints(Config))
@pytest.mark.parametrize("given", [None, 3, "x", []])
def test_a_section_that_is_none_is_refused(section: str, given: Any) -> None:
    config = Config()
    setattr(config, section, given)
    with pytest.raises(UserError, match=f"section {section} must be a .*, or a dict of its fields; got"):
        settle(config)
