"""What the sections of a config have in common: a name that is no field is refused where it is written."""

import re
from typing import TYPE_CHECKING, Any

from muloco.training.other_names import PAPER, hint


class Section:
    """Base of the dataclasses in `muloco.training.config`.

    Names that the paper's repository uses are kept aside, in `_other`, until `muloco.training.load.settle` reads them.
    """

    __slots__ = ("_other",)

    if not TYPE_CHECKING:  # to a type checker a section has its fields alone

        def __setattr__(self, name: str, value: Any) -> None:
            if name in self.__slots__ or name == "_other":
                object.__setattr__(self, name, value)
            elif full_name(section_name(type(self).__name__), name) in PAPER:
                self.other_names()[name] = value
            else:
                raise _unknown(self, name)

        def __getattr__(self, name: str) -> Any:
            """Called for names that are not there."""
            if name.startswith("_"):
                raise AttributeError(name)
            raise _unknown(self, name)

    def other_names(self) -> dict[str, Any]:
        """Values under names of the paper's repository."""
        if not hasattr(self, "_other"):
            self._other: dict[str, Any] = {}
        return self._other


def section_name(class_name: str) -> str:
    """What a section is called: `LRScheduler` is `lr_scheduler`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", class_name).lower()


def full_name(section: str, name: str) -> str:
    """`lr` in `optimizer` is `optimizer.lr`; a section is in no other."""
    return name if section == "config" else f"{section}.{name}"


def _unknown(section: Section, name: str) -> AttributeError:
    of = section_name(type(section).__name__)
    if of == "role":  # there are several, and none knows which one it is
        return AttributeError(f"a role in a config has no {name}; it has {', '.join(section.__slots__)}")
    known = [full_name(of, field) for field in section.__slots__]
    full = full_name(of, name)
    return AttributeError(f"there is no {full} in a config; {hint(full, known, prefix='')}")
