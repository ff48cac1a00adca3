"""The base of a config's sections: a name that is not a field is refused where it is assigned."""

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from muloco.settings.other_names import PAPER, hint

Origins = dict[str, str]
"""Where each derived value comes from, by the full name of its field."""


class Section:
    """Base of the dataclasses in `muloco.settings.config`.

    Names of the paper's repository are kept in `_other` until `muloco.settings.paper_forms.settle` reads them.
    """

    __slots__ = ("_other",)

    if not TYPE_CHECKING:  # a type checker sees only the fields of a section

        def __setattr__(self, name: str, value: Any) -> None:
            if name in type(self).__dataclass_fields__ or name == "_other":
                object.__setattr__(self, name, value)
            elif full_name(section_name(type(self).__name__), name) in PAPER:
                self.other_names()[name] = value
            else:
                raise _unknown(self, name)

        def __delattr__(self, name: str) -> None:
            """Refuses to delete a field, which every config has."""
            where = section_name(type(self).__name__)
            field = f"{name} of a role" if where == "role" else full_name(where, name)
            raise AttributeError(f"{field} cannot be deleted in a config; without an assignment it has its default")

        def __getattr__(self, name: str) -> Any:
            """Refuses names that do not exist."""
            if name.startswith("_"):
                raise AttributeError(name)
            raise _unknown(self, name)

    def derive(self, name: str, value: Any, origin: str, origins: Origins) -> None:
        """Sets a field that is open, and notes where its value comes from."""
        if getattr(self, name) is None:
            setattr(self, name, value)
            origins[full_name(section_name(type(self).__name__), name)] = origin

    def other_names(self) -> dict[str, Any]:
        """The values under names of the paper's repository."""
        if not hasattr(self, "_other"):
            self._other: dict[str, Any] = {}
        return self._other


def section_name(class_name: str) -> str:
    """The name of a section: `LRScheduler` is `lr_scheduler`, and `ResolvedTraining` is `training`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", class_name.removeprefix("Resolved"))
    return words.lower()


def full_name(section: str, name: str) -> str:
    """The full name of a field: `lr` in `optimizer` is `optimizer.lr`. A section itself is at the top."""
    return name if section == "config" else f"{section}.{name}"


def _unknown(section: Section, name: str) -> AttributeError:
    of = section_name(type(section).__name__)
    fields = [field.name for field in dataclasses.fields(section)]  # type: ignore[arg-type]
    if of == "role":  # there are several roles, and none knows its own name
        return AttributeError(f"a role in a config has no {name}; it has {', '.join(fields)}")
    known = [full_name(of, field) for field in fields]
    full = full_name(of, name)
    return AttributeError(f"there is no {full} in a config; {hint(full, known, prefix='')}")
