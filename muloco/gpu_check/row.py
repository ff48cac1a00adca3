"""The declaration of a row: what it checks, and how."""

from dataclasses import KW_ONLY, dataclass


@dataclass(frozen=True)
class Row:
    """One thing that only a GPU can show.

    Its check is the function of its name in a module below `muloco.gpu_check.checks`. A row without a module can only
    be checked by hand.
    """

    name: str
    """Short and unique, for `--rows` and the records; letters, digits and underscores."""
    what: str
    """What the row checks, for docs/untested-on-gpu.md."""
    where: tuple[str, ...]
    """Files whose code the row checks, relative to muloco/ or, if they exist there, to the checkout."""
    command: str
    """How a person checks the row without `muloco check-gpu`, for docs/untested-on-gpu.md."""
    _: KW_ONLY
    module: str = ""
    """Name of the module that has its check."""
    by_hand: str = ""
    """Why only a person can check the row; empty if it has a module."""
    gpus: int = 1
    """Number of GPUs that the row needs."""
    memory_gib: float = 0
    """Memory that the row needs on each GPU, in GiB."""
    seconds: float = 10
    """Estimate of its duration on an H100, in seconds. The row is not started when less time is left."""
    alone: bool = False
    """Whether nothing else may run at the same time, because it measures times or memory."""
    after: str = ""
    """Name of the row whose results this row needs, if there is one. It is chosen together with this row."""


@dataclass(frozen=True)
class Part:
    """Rows that are chosen together."""

    name: str
    summary: str
    """One line for the help text and docs/untested-on-gpu.md."""
    rows: tuple[Row, ...]
