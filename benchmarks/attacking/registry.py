"""The list of all attacks. An attack is a function with the decorator `attack`."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """The result of an attack on a run."""

    SURVIVED = "survived"
    """The run went on unharmed."""
    REFUSED = "refused"
    """The attacker or the bad input was refused, and nothing changed."""
    ENDED = "ended as documented"
    """The run ended as the documentation describes, with the reason in its last lines."""
    HUNG = "hung"
    """The run neither went on nor ended."""
    LOST = "lost"
    """The run ended, leaked something or went on with a wrong state, contrary to the documentation."""
    IMPOSSIBLE = "not possible here"
    """This machine does not allow the attack; it does not count as tried."""


BAD = (Verdict.HUNG, Verdict.LOST)


@dataclass
class Report:
    """Verdicts on one attack, which may consist of many tries."""

    counts: Counter[Verdict] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    """Observations, including the reasons of bad verdicts."""

    @classmethod
    def of(cls, verdict: Verdict, note: str = "", *, tries: int = 1) -> "Report":
        return cls(Counter({verdict: tries}), [note] if note else [])

    def add(self, verdict: Verdict, note: str = "") -> None:
        self.counts[verdict] += 1
        if note:
            self.notes.append(note)

    @property
    def bad(self) -> int:
        return sum(self.counts[verdict] for verdict in BAD)


@dataclass
class Seen:
    """Observations of an attacker, for the judge of a live run."""

    wrong: list[str] = field(default_factory=list)
    """Events that must not happen, such as an answer to a stranger."""
    refused: str = ""
    """The message with which the attacker was refused; empty if there was none."""
    tries: int = 1
    note: str = ""
    impossible: str = ""
    """The reason why this machine does not allow the attack."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The way in which a run has to end after an attack that ends it."""

    statuses: tuple[int, ...]
    says: str
    """Regular expression that the end of its console has to match."""
    resumes: bool = True
    """Whether `--resume` has to go on from a checkpoint afterwards."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One entry of the catalogue."""

    family: str
    name: str
    does: str
    must: str
    """The conditions that must be true afterwards, in words."""
    scene: str
    """Name of the scene with the run that is attacked; empty if the attack needs no live run."""
    short: bool
    """Whether it is part of the short form."""
    play: Callable[[Any, random.Random], "Report | Seen | Ending | None"]


ATTACKS: list[Attack] = []


def attack(family: str, *, must: str, scene: str = "", short: bool = False) -> Callable[[Callable], Callable]:
    """Adds a function to the catalogue; its docstring says what it does.

    Args:
        family: that it belongs to.
        must: what must be true afterwards, in words.
        scene: name of the live run (`scenes.py`) that the function gets as its first argument; the judge then looks at
            that run. Without one it gets a folder for its files, and returns a `Report`.
        short: whether it is part of the short form.
    """

    def add(function: Callable) -> Callable:
        does = " ".join((function.__doc__ or "").split())
        assert does, f"{function.__name__} has no docstring"
        name = function.__name__.replace("_", "-")
        assert name not in {entry.name for entry in ATTACKS}, f"two attacks have the name {name}"
        entry = Attack(family=family, name=name, does=does, must=must, scene=scene, short=short, play=function)
        ATTACKS.append(entry)
        return function

    return add
