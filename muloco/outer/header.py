"""What each member of a round tells the others before any payload moves."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from muloco.outer.terms import Terms

PROTOCOL = 1
"""Version of all that workers say to each other: headers, payloads and their order, votes. It is raised with every
change that workers without the change do not understand."""
NOTHING = -1
"""In a header: the member sends no fragment; it has come to meet the others before its first inner step."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a member tells the others about itself."""

    run: str
    """Name of the run."""
    worker: int
    terms: Terms
    """What has to be the same on all workers."""
    step: int
    """Inner step after which it came."""
    fragment: int
    weight: int
    """Inner steps in its window."""
    finite: bool
    digest: int
    """Of its part of the fragment's anchor; of all anchors where it sends nothing."""
    share: str
    """Its position in its share of the data, opaque."""
    history: str
    """What it has committed so far: equal on all that were in the same rounds, and empty before the first one."""
    leaving: bool = False
    """Whether it has been asked to stop, and so asks all to stop after this sync."""

    def to_bytes(self) -> bytes:
        """Returns the header as JSON."""
        return json.dumps({"protocol": PROTOCOL, **asdict(self), "terms": self.terms.to_json()}).encode()

    @property
    def sends(self) -> bool:
        """Whether it brings a fragment, and so is on the way, and not about to begin."""
        return self.fragment != NOTHING

    @property
    def experienced(self) -> bool:
        """Whether it has been in a round that was committed."""
        return self.history != ""

    @property
    def company(self) -> tuple[str, Terms]:
        """What is equal for members that can take part in the same rounds."""
        return self.run, self.terms


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A message in place of a header of this version. What can be read of it is believed."""

    protocol: int | None
    """The version that it names; None: the bytes are not a header of any version."""
    sends: bool
    experienced: bool
    text: str
    """How the message begins."""

    @property
    def company(self) -> tuple[int | None]:
        """What is equal for members that understand each other, as far as can be told."""
        return (self.protocol,)


def read_header(data: bytes) -> Header | Unreadable:
    """Parses the result of `Header.to_bytes`. Fields that this version does not know are ignored."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        values = None
    if type(values) is not dict:
        values = {}
    protocol = values.get("protocol")
    if protocol == PROTOCOL and type(protocol) is int:
        header = _header(values)
        if header is not None:
            return header
        protocol = None
    fragment, history = values.get("fragment"), values.get("history")
    named = type(protocol) is int
    return Unreadable(
        protocol=protocol if named else None,
        sends=named and type(fragment) is int and fragment != NOTHING,
        experienced=named and type(history) is str and history != "",
        text=repr(data[:80]),
    )


def _header(values: dict[str, Any]) -> Header | None:
    """The header with these values; None: they are not valid."""
    try:
        known = {field.name: values[field.name] for field in fields(Header)}
        header = Header(**known | {"terms": Terms.from_json(known["terms"])})
    except (ValueError, TypeError, KeyError):
        return None
    sound = all(type(getattr(header, field.name)) is field.type for field in fields(Header))
    valid = (
        sound
        and header.worker >= 0
        and header.step >= 0
        and header.fragment >= NOTHING
        and 0 <= header.weight < 2**63
        and -(2**63) <= header.digest < 2**63
    )
    return header if valid else None
