"""The table that `muloco check-gpu` prints at its end."""

import textwrap
from collections import Counter
from typing import Any

from muloco.gpu_check.record import FAIL, LEFT_OUT, OK, Record

WIDTH = 118


def table(record: Record, width: int = WIDTH) -> str:
    """Returns the table: one or more lines for each row, and a line with the counts.

    Args:
        record: of the rows.
        width: of the terminal, in characters; no line is longer than this or `WIDTH`.
    """
    widest = max(map(len, record.outcomes), default=0)
    lines = []
    for name, outcome in record.outcomes.items():
        seconds = f"{outcome.seconds:6.1f} s" if outcome.seconds else " " * 8
        head = f"{outcome.status:8}  {name:{widest}}  {seconds}  "
        said = outcome.reason or shown(outcome.figures)
        wrapped = textwrap.wrap(said, max(30, min(width, WIDTH) - len(head)), break_long_words=False) or [""]
        lines += [head + wrapped[0], *(" " * len(head) + line for line in wrapped[1:])]
    counts = Counter(outcome.status for outcome in record.outcomes.values())
    ended = ", ".join(
        f"{counts[status]} {word}" for status, word in ((OK, "ok"), (FAIL, "failed"), (LEFT_OUT, LEFT_OUT))
    )
    return "\n".join([*(line.rstrip() for line in lines), "", f"{checks(len(record.outcomes))}: {ended}"])


def checks(count: int) -> str:
    """Such as `1 check`."""
    return f"{count} check{'' if count == 1 else 's'}"


def shown(figures: dict[str, Any]) -> str:
    """Returns figures as text in one line."""
    return ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in figures.items())


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
