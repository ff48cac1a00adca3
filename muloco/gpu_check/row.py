"""One row: what there is to check, and how."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing that only a GPU can show.

    A row has either a `check` or a reason why it can only be checked by hand.
    """

    name: str
    """Short and unique, for `--rows` and the records; letters, digits and underscores."""
    what: str
    """What is checked, for the page."""
    where: tuple[str, ...]
    """Files that it is about, below muloco/ or, if they are there, in the checkout."""
    command: str = ""
    """How a person checks it without `muloco check-gpu`, for the page."""
    check: str = ""
    """`module:function` below `muloco.gpu_check.checks`."""
    by_hand: str = ""
    """Why only a person can check it."""
    gpus: int = 1
    """How many it needs."""
    memory_gib: float = 0
    """Memory of a GPU that it needs."""
    seconds: float = 10
    """How long it takes on an H100, about; it is not begun when less is left."""
    limit: float = 90
    """Seconds after which it has failed."""
    alone: bool = False
    """Whether nothing else may run at the same time, because it measures times or memory."""
    after: tuple[str, ...] = ()
    """Rows that it builds on; they are run with it."""


@dataclass(frozen=True)
class Part:
    """Rows that are chosen together."""

    name: str
    summary: str
    """For the help."""
    rows: tuple[Row, ...]
