"""The output of `muloco check-gpu`: the list of its rows, and the table at its end."""

import os
import textwrap
from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from muloco.gpu_check.figures import shown
from muloco.gpu_check.record import FAIL, LEFT_OUT, OK, STOPPED, TIME_IS_UP, Record
from muloco.gpu_check.registry import PARTS
from muloco.gpu_check.row import Row

WIDTH = 118


def table(record: Record, width: int = WIDTH) -> str:
    """Returns the table: one or more lines for each row, one for all rows that were left out for the same cause, and a
    line with the counts.

    Args:
        record: of the rows. Figures of speed are not shown if it is that of a rehearsal.
        width: of the terminal, in characters; no line is longer than this or `WIDTH`.
    """
    widest = max(map(len, record.outcomes), default=0)
    width = min(width, WIDTH)
    lines = []
    for name, outcome in record.outcomes.items():
        if outcome.cause:
            continue
        seconds = f"{outcome.seconds:6.1f} s" if outcome.seconds else " " * 8
        head = f"{outcome.status:8}  {name:{widest}}  {seconds}  "
        said = outcome.reason or shown(outcome.figures, speeds=not record.head.get("rehearsal"))
        wrapped = textwrap.wrap(said, max(30, width - len(head)), break_long_words=False) or [""]
        lines += [head + wrapped[0], *(" " * len(head) + line for line in wrapped[1:])]
    for cause in (TIME_IS_UP, STOPPED):
        if names := [name for name, outcome in record.outcomes.items() if outcome.cause == cause]:
            lines += textwrap.wrap(f"left out, as {cause}: {', '.join(names)}", width, subsequent_indent=" " * 10)
    counts = Counter(outcome.status for outcome in record.outcomes.values())
    ended = ", ".join(
        f"{counts[status]} {word}" for status, word in ((OK, "ok"), (FAIL, "failed"), (LEFT_OUT, LEFT_OUT))
    )
    return "\n".join([*(line.rstrip() for line in lines), "", f"{checks(len(record.outcomes))}: {ended}"])


def checks(count: int) -> str:
    """Returns a number of checks in words, such as `1 check`."""
    return f"{count} check{'' if count == 1 else 's'}"


def terminal_width(console: Console) -> int | None:
    """Returns the width of the user's terminal in characters; None if the output goes to a file or a pipe and
    COLUMNS is not set."""
    return console.width if console.is_terminal or "COLUMNS" in os.environ else None


def listing(rows: Sequence[Row], width: int | None = None) -> str:
    """Returns the list of rows, by part, with lines of at most `width` characters if it is given."""
    lines = []
    for part in PARTS:
        if listed := [row for row in part.rows if row in rows]:
            lines += _wrapped(f"{part.name}: {part.summary}", width, indent=2)
            for row in listed:
                lines += _wrapped(f"  {row.name:24} {_shown(row)}", width, indent=27)
    return "\n".join(lines)


def _wrapped(line: str, width: int | None, *, indent: int) -> list[str]:
    if width is None:
        return [line]
    return textwrap.wrap(line, max(width, indent + 30), subsequent_indent=" " * indent, break_long_words=False)


def _shown(row: Row) -> str:
    gpus = f" ({row.gpus} GPUs)" if row.gpus > 1 else ""
    return row.what + gpus + (f"; by hand: {row.by_hand}" if row.by_hand else "")
