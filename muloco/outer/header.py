"""Headers: the first message that each member of a round sends to the others, before any payload."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from muloco.outer.terms import Terms

PROTOCOL = 2
"""Version of the protocol between workers: headers, votes, seals, and the payloads and their order. It is raised with
every incompatible change."""
NOTHING = -1
"""Value of `Header.fragment` for a member that sends no fragment, because it has not taken its first inner step."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """A member's description of itself for the others."""

    run: str
    """Name of the run."""
    worker: int
    terms: Terms
    """The terms of its run, which have to be the same on all workers."""
    step: int
    """Number of inner steps that it had taken when it joined the round."""
    fragment: int
    weight: int
    """Inner steps in its window."""
    finite: bool
    digest: int
    """Digest of its part of the fragment's anchor; if it sends no fragment, of all anchors."""
    share: str
    """Its position in its share of the data, as an opaque text."""
    history: str
    """Digest of the rounds that it has committed, equal on all that were in the same ones; empty before the first."""
    leaving: bool = False
    """Whether it has been asked to stop, and so asks all to stop after this sync."""

    def to_bytes(self) -> bytes:
        """Returns the header as JSON."""
        return json.dumps({"protocol": PROTOCOL, **asdict(self), "terms": self.terms.to_json()}).encode()

    @property
    def sends(self) -> bool:
        """Whether it sends a fragment, rather than being about to begin."""
        return self.fragment != NOTHING

    @property
    def experienced(self) -> bool:
        """Whether it has been in a round that was committed."""
        return self.history != ""

    @property
    def company(self) -> tuple[str, Terms]:
        """The company to which it belongs (see `muloco.outer.company`): equal for members that can share rounds."""
        return self.run, self.terms


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A message that is not a header of this version. Its fields hold whatever could be read of it."""

    protocol: int | None
    """Its version of the protocol; None if the bytes are not a header of any version."""
    sends: bool
    experienced: bool
    text: str
    """The beginning of the message."""

    @property
    def company(self) -> tuple[int | None]:
        """The company to which it belongs: one for each other version, and one for messages that are not headers."""
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
    """Returns the header with these values, or None if they are not valid."""
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
