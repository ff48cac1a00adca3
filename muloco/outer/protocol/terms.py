"""The terms of a run: the values that have to be the same on all of its workers, and how two workers differ in them."""

from dataclasses import asdict, dataclass, fields
from typing import Any

Setting = str | int | float | bool | None
_FIELDS = {
    "workers": "fault_tolerance.group_size",
    "sync_interval": "fault_tolerance.sync_steps",
    "delay": "fault_tolerance.fragment_sync_delay",
    "fragments": "fault_tolerance.num_fragments",
    "layout": "digest of the fragments",
}
"""Names of the fields of `Terms` in messages: the config field, where there is one."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The values that have to be the same on all workers of a run. Workers with equal terms send payloads of equal
    sizes and take equal outer steps."""

    workers: int = 1
    """K, the number of workers that begin a run together."""
    sync_interval: int = 1
    """H, inner steps between two outer steps of a fragment."""
    delay: int = 0
    """tau, inner steps between sending a pseudogradient and applying the mean."""
    fragments: int = 1
    """J, the number of fragments."""
    layout: str = ""
    """Digest of the shapes and codecs of the tensors that this rank sends; see `compression.layout_of`."""
    settings: tuple[tuple[str, Setting], ...] = ()
    """Further config fields, by full name, such as those of compression and of the outer optimizer."""

    def to_json(self) -> dict[str, Any]:
        """Returns the terms as values for JSON."""
        return asdict(self) | {"settings": dict(self.settings)}

    @classmethod
    def from_json(cls, values: Any) -> "Terms":
        """Parses the result of `to_json`. Fields that this version does not know are ignored.

        Raises:
            ValueError, TypeError, KeyError: `values` are not valid terms.
        """
        known = {field.name: values[field.name] for field in fields(cls)}
        settings = known.pop("settings")
        terms = cls(**known, settings=tuple(settings.items()) if type(settings) is dict else ())
        sound = all(type(getattr(terms, field.name)) is field.type for field in fields(cls) if field.name in known)
        if not (
            sound
            and type(settings) is dict
            and all(value is None or type(value) in (str, int, float, bool) for value in settings.values())
            and terms.workers >= 1
            and terms.sync_interval >= 1
            and terms.delay >= 0
            and terms.fragments >= 1
        ):
            raise ValueError("these are no terms of a run")
        return terms

    def differences(self, other: "Terms") -> dict[str, tuple[Setting, Setting]]:
        """Returns the values that differ, of both, by config field; the digest only if nothing else differs."""
        own, others = dict(self.settings), dict(other.settings)
        differences = {
            name: (own.get(name), others.get(name)) for name in own | others if own.get(name) != others.get(name)
        }
        for name, config_field in _FIELDS.items():
            pair = getattr(self, name), getattr(other, name)
            if pair[0] != pair[1] and (name != "layout" or not differences):
                differences[config_field] = pair
        return differences
