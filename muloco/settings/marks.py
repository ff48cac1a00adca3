"""Marks on the fields of a config, as annotations of their types: `host: MayChange[Text | None]`.

A mark on a section of the config applies to all of its fields without a mark of their own. Needs nothing but Python.
"""

import enum
from typing import Annotated, TypeVar

Type = TypeVar("Type")


class Mark(enum.Enum):
    MAY_CHANGE = "may change"
    COMMON = "common"


MayChange = Annotated[Type, Mark.MAY_CHANGE]
"""Does not affect what is learned, so that a resume may change it. Fields without this mark identify a run."""
Common = Annotated[Type, Mark.COMMON]
"""Has the same value on all workers of a run, so that payloads have equal sizes and outer steps equal results."""
