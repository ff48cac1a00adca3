"""A fault, as a plain record."""

from dataclasses import dataclass

LIGHTHOUSE = -1
"""Stands for the lighthouse in the place of a worker's number."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault, see `KINDS` in `tests.simulation.faults` and `tests.simulation.outsiders`."""

    kind: str
    worker: int
    point: int
    """It happens when the worker comes to its n-th point, at which it waits or sends, counted from `phase` on."""
    phase: str = ""
    """A failpoint of the engine (`muloco.failpoints`); empty: the start."""
    times: int = 0
    """How often the worker comes to that failpoint first."""
    other: int = 0
    seconds: float = 0.0
    amount: float = 0
    detail: str = ""
    rank: int = 0
    """Which rank of the worker it happens to."""

    def __str__(self) -> str:
        place = f"after it has come to {self.phase!r} {self.times} times" if self.phase else "from the start"
        details = {
            "rank": self.rank,
            "other": self.other,
            "seconds": round(self.seconds, 2),
            "amount": self.amount,
            "detail": self.detail,
        }
        rest = ", ".join(f"{name} {value}" for name, value in details.items() if value)
        return f"{self.kind}, worker {self.worker}, at its point {self.point} {place}{rest and ': '}{rest}"
