"""Bounds and marks of a config's fields, as annotations of their types: `host: MayChange[Text | None]`. A mark on a
section applies to all of its fields without a mark of their own. Needs nothing but Python.
"""

import enum
import re
from dataclasses import dataclass
from typing import Annotated, TypeVar

Type = TypeVar("Type")
YEAR_SECONDS = 365 * 24 * 3600
LONGEST_NAME = 200


class Mark(enum.Enum):
    MAY_CHANGE = "may change"
    COMMON = "common"


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers between two limits, each of which is optional."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    @property
    def words(self) -> str:
        """The allowed values in words, to follow "must be"."""
        if self.least is None:
            return f"above {self.above}" + ("" if self.most is None else f" and at most {self.most}")
        if self.most is not None:
            return f"from {self.least} to {self.most}"
        if self.below is not None:
            return f"from {self.least} to below {self.below}"
        return f"at least {self.least}" if self.least else "0 or more"

    def allows(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )


@dataclass(frozen=True)
class Pattern:
    """Texts that a regular expression matches."""

    words: str
    """The allowed values in words, to follow "must be"."""
    expression: str = ".+"

    def allows(self, value: str) -> bool:
        return re.fullmatch(self.expression, value) is not None


FOLDER_NAME = Pattern(
    f"the name of a folder: up to {LONGEST_NAME} letters (A to Z, a to z), digits and . _ - + = , starting with a "
    "letter, a digit or _",
    rf"[A-Za-z0-9_][A-Za-z0-9._+=,-]{{0,{LONGEST_NAME - 1}}}",
)
"""Names of folders that are safe in paths, on command lines and in other programs' files."""
JOINED = Pattern("names separated by commas")
"""Names that are kept as one text, and may be given as a list."""

Count = Annotated[int, Range(least=1)]
Amount = Annotated[int, Range(least=0)]
Seed = Annotated[int, Range(least=0, most=2**63 - 1)]
Bits = Annotated[int, Range(least=1, most=8)]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, most=1)]
SomeShare = Annotated[float, Range(above=0, most=1)]
Momentum = Annotated[float, Range(least=0, below=1)]
Seconds = Annotated[float, Range(above=0, most=YEAR_SECONDS)]
Name = Annotated[str, FOLDER_NAME]
Names = Annotated[str, JOINED]
Text = Annotated[str, Pattern("a text that is not empty")]
MayChange = Annotated[Type, Mark.MAY_CHANGE]
"""Does not affect what is learned, so that a resume may change it. Fields without this mark identify a run."""
Common = Annotated[Type, Mark.COMMON]
"""Has the same value on all workers of a run, so that payloads have equal sizes and outer steps equal results."""
