"""Headers: the first message that each member of a round sends to the others, before any payload."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from muloco.outer.protocol.terms import Terms

PROTOCOL = 3
"""Version of the protocol between workers: headers, votes, seals, and the payloads and their order. It is raised with
every incompatible change."""
_KEYS = {"data_position": "share", "commit_hash": "history", "asks_to_stop": "leaving"}
"""Keys of the JSON for the fields that are not their own keys."""
_NO_FRAGMENT = -1
"""The JSON's fragment for a member that sends none."""


def as_hex(digest: int) -> str:
    """Returns a 64-bit checksum as 16 hexadecimal digits."""
    return f"{digest & (2**64 - 1):016x}"


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
    fragment: int | None
    """The fragment that it sends; None: it sends none, because it has not taken its first inner step."""
    weight: int
    """Inner steps in its window."""
    finite: bool
    digest: int
    """Digest of its part of the fragment's anchor; if it sends no fragment, of all anchors."""
    data_position: str
    """Its position in its shard of the data, as text that the outer loop does not interpret."""
    commit_hash: str
    """Hash of the rounds that it has committed, equal on all workers that were in the same rounds; empty before the
    first."""
    outer_digest: int = 0
    """Digest of its part of the outer optimizer's state of the fragment; if it sends no fragment, of all fragments."""
    asks_to_stop: bool = False
    """Whether it has been asked to stop, and so asks all to stop after this sync."""
    waits: bool = False
    """Whether it waits for a worker that is missing in this round, which is not committed then."""

    def to_bytes(self) -> bytes:
        """Returns the header as JSON."""
        values = asdict(self) | {"terms": self.terms.to_json()}
        if self.fragment is None:
            values["fragment"] = _NO_FRAGMENT
        return json.dumps({"protocol": PROTOCOL} | {_KEYS.get(name, name): values[name] for name in values}).encode()

    @property
    def sends(self) -> bool:
        """Whether it sends a fragment, rather than being about to begin."""
        return self.fragment is not None

    @property
    def experienced(self) -> bool:
        """Whether it has been in a round that was committed."""
        return self.commit_hash != ""

    @property
    def company(self) -> tuple[str, Terms]:
        """The company to which it belongs (see `company.py`): equal for members that can share rounds."""
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
        sends=named and type(fragment) is int and fragment != _NO_FRAGMENT,
        experienced=named and type(history) is str and history != "",
        text=repr(data[:80]),
    )


def _header(values: dict[str, Any]) -> Header | None:
    """Returns the header with these values, or None if they are not valid."""
    try:
        values = {"waits": False} | values  # earlier versions do not say it
        known = {field.name: values[_KEYS.get(field.name, field.name)] for field in fields(Header)}
        known["terms"] = Terms.from_json(known["terms"])
    except (ValueError, TypeError, KeyError):
        return None
    types = {field.name: field.type for field in fields(Header)} | {"fragment": int}
    if not all(type(known[name]) is types[name] for name in types) or known["fragment"] < _NO_FRAGMENT:
        return None
    header = Header(**known | {"fragment": None if known["fragment"] == _NO_FRAGMENT else known["fragment"]})
    digests = all(-(2**63) <= digest < 2**63 for digest in (header.digest, header.outer_digest))
    valid = header.worker >= 0 and header.step >= 0 and 0 <= header.weight < 2**63 and digests
    return header if valid else None
