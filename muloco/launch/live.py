"""One view of all workers while they run: a table on a terminal, lines elsewhere."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from muloco.console import BackgroundStream
from muloco.launch.standing import LOST, Standing, by_need, doing, span, summary
from muloco.runs.folder import STATE
from muloco.runs.states import State
from muloco.settings.config import ResolvedConfig

_COLORS = ("cyan", "magenta", "green", "yellow", "blue", "red")
_WORTH_SHOWING = (" WARNING ", " ERROR ", " CRITICAL ", "Traceback")
REFRESH_SECONDS = 1.0
"""Least seconds between two redraws of the table; one takes 10 ms with 32 workers."""
_GAP = 2
"""Number of cells between two columns."""
_BESIDE_WORKERS = 4
"""Lines of the view that are not workers: progress, heading, total, and the line of the cursor."""
_LEAST_DOING, _MOST_DOING = 12, 26
"""Cells that other columns leave for the column "doing", by the width of the terminal."""

Column = tuple[str, Callable[[Standing], str], int]
"""Heading, a worker's cell, and how early the column is dropped on a narrow terminal; 0: never."""
_COLUMNS: tuple[Column, ...] = (
    ("worker", lambda s: str(s.worker), 0),
    ("step", lambda s: _number(s.step, "d"), 0),
    ("loss", lambda s: _number(s.values.get("loss"), ".4f"), 1),
    ("tokens/s", lambda s: _number(s.values.get("tokens_per_second"), ",.0f"), 2),
    ("last sync", lambda s: _number(s.synced, "d"), 5),
    ("MB sent", lambda s: _number(s.megabytes, ",.1f"), 4),
    ("held-out loss", lambda s: _number(s.values.get("validation_loss"), ".4f"), 3),
    ("anchor", lambda s: s.values.get("digest", "-"), 6),
)


class View:
    """Shows the contents of metrics and logs; use it as a context, in which printing to the console never waits.

    On a terminal: progress, a line for each worker with what it is doing, and their total, in as many columns and lines
    as there is room for; above it the workers' warnings. Without a terminal: every line that a worker logs, after its
    name, and a line for each sync.

    Args:
        clock: seconds, for the time that is left.
    """

    def __init__(self, config: ResolvedConfig, console: Console, clock: Callable[[], float] = time.monotonic):
        self._config = config
        self._console = console
        self._clock = clock
        self._steps = config.training.steps
        self._workers = [Standing(worker) for worker in range(config.workers)]
        self._began: tuple[float, float] | None = None
        """When the first worker began to train, and the mean of the workers' steps then."""
        self._done = 0.0
        """The number of inner steps that a worker has done, on average."""
        self._told: set[str] = set()
        """Keys of the messages that were printed."""
        self._live = Live(self.frame(), console=console, auto_refresh=False, transient=True)
        self._shown = -math.inf
        """Time of the last redraw of the table."""

    def __enter__(self) -> "View":
        self._foreground = self._console.file
        self._background = BackgroundStream(self._foreground)
        self._console.file = cast(IO[str], self._background)
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()
        self._console.file = self._foreground
        self._background.end()

    def update(self, lines: Iterable[dict[str, Any]], away: Mapping[int, float | None] = {}) -> None:
        """Takes new lines of metrics and the lost processes of workers, with the seconds until each is restarted, or
        None if it is not restarted."""
        for line in lines:
            self._workers[line["worker"]].take(line)
            self._tell(line)
        for standing in self._workers:
            process = standing.worker if self._config.worker_processes > 1 else 0
            standing.supervised(away.get(process), lost=process in away)
        self._measure()
        if self._console.is_terminal and self._clock() >= self._shown + REFRESH_SECONDS:
            self._shown = self._clock()
            self._live.update(self.frame(), refresh=True)

    def log(self, worker: int, line: str) -> None:
        """Shows a line of a worker's log, or, on a terminal, only those that need attention."""
        if not self._console.is_terminal or any(word in line for word in _WORTH_SHOWING):
            name = f"worker {worker}" if self._config.worker_processes == self._config.workers else "workers"
            prefix = Text(f"{name} | ", style=_COLORS[worker % len(_COLORS)])
            self._console.print(prefix + Text(line), soft_wrap=True)

    def _tell(self, line: dict[str, Any]) -> None:
        """Prints messages that concern all workers once, from whichever worker is first."""
        if line.get("event") == "sync" and not self._console.is_terminal:
            key = f"sync {line['step']} {line.get('fragment')}"
            what = (
                f"step {line['step']}/{self._steps}: "
                f"sync of {line['participants']} worker{'s' * (line['participants'] > 1)}, "
                f"{line['bytes_sent'] / 1e6:.1f} MB sent by each, {line['seconds_waited']:.2f} s waited, "
                f"anchor {line['digest']}"
            )
        elif line.get("event") == STATE and line["state"] == State.RESUMED and self._began is None:
            key = State.RESUMED
            what = f"resumed from the checkpoint of step {line['step']}"
        else:
            return
        if key not in self._told:
            self._told.add(key)
            self._console.print(Text(what), soft_wrap=True)

    def _measure(self) -> None:
        steps = [standing.step for standing in self._workers if standing.step is not None and standing.takes_part]
        if not steps:
            return
        mean = sum(steps) / len(steps)
        if self._began is None and any(standing.state == State.TRAINING for standing in self._workers):
            self._began = self._clock(), mean
        self._done = max(self._done, mean)

    def _speed(self) -> float | None:
        """Inner steps of all workers a second since they began to train, syncs and validation included."""
        if self._began is None or self._clock() <= self._began[0]:
            return None
        return (self._done - self._began[1]) / (self._clock() - self._began[0])

    def _left(self) -> str:
        """The time that is left at this speed."""
        speed = self._speed()
        if not speed:
            return "-:--:--"
        seconds = round((self._steps - self._done) / speed)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def frame(self) -> RenderableType:
        """The current contents for a terminal of that width and height."""
        room = max(1, self._console.height - _BESIDE_WORKERS)
        shown, rest = self._workers, []
        if len(shown) > room:
            ordered = by_need(self._workers, self._config)
            shown, rest = ordered[: room - 1], ordered[room - 1 :]
        cells = [{heading: cell(s) for heading, cell, _ in _COLUMNS} for s in shown]
        if rest:
            cells.append(_total(f"{len(rest)} more", rest))
        speed = self._speed()
        tokens = speed * self._config.tokens_per_step if speed else None
        cells.append(_total("all", self._workers) | {"tokens/s": _number(tokens, ",.0f")})
        widths = {heading: max(len(heading), *(len(row[heading]) for row in cells)) for heading, _, _ in _COLUMNS}
        columns = self._fitting(widths)
        table = Table.grid(padding=(0, _GAP, 0, 0))
        for heading in columns:
            table.add_column(justify="left" if heading == "anchor" else "right", no_wrap=True)
        left = max(1, self._console.width - sum(widths[heading] + _GAP for heading in columns))
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=left)
        table.add_row(*columns, "doing", style="dim")
        last = [(doing(s, self._workers, self._config), _style(s)) for s in shown]
        last += [(summary(rest, left), "dim")] if rest else []
        last.append((summary(self._workers, left), "bold"))
        for row, (words, style) in zip(cells, last, strict=True):
            table.add_row(*(Text(row[heading]) for heading in columns), Text(words), style=style)
        return Group(self._progress(), table)

    def _progress(self) -> RenderableType:
        steps = f"{self._done:.0f}/{self._steps}"
        left = f"ETA {self._left()}"
        name = Text(str(self._config.run.name), no_wrap=True, overflow="ellipsis")
        grid = Table.grid(padding=(0, _GAP, 0, 0))
        room = self._console.width - len(steps) - len(left) - 3 * _GAP
        grid.add_column(max_width=max(4, room // 2), no_wrap=True, overflow="ellipsis")
        bar = min(40, max(4, room - min(name.cell_len, room // 2) - _GAP))
        grid.add_row(name, ProgressBar(total=max(1, self._steps), completed=self._done, width=bar), steps, left)
        return grid

    def _fitting(self, widths: Mapping[str, int]) -> list[str]:
        """The headings of the columns that fit next to the column "doing"."""
        kept = [heading for heading, _, _ in _COLUMNS]
        wanted = max(_LEAST_DOING, min(_MOST_DOING, self._console.width * 2 // 5))
        for heading, _, _ in sorted(_COLUMNS, key=lambda column: -column[2]):
            if sum(widths[heading] + _GAP for heading in kept) + wanted <= self._console.width:
                break
            kept.remove(heading)
        return kept


def _total(name: str, workers: Sequence[Standing]) -> dict[str, str]:
    """A line for several workers: the means of their losses, and the sum of what they have sent."""
    present = [standing for standing in workers if standing.takes_part]
    losses, held_out = (
        [value for standing in present if (value := standing.values.get(name)) is not None]
        for name in ("loss", "validation_loss")
    )
    sent = [standing.megabytes for standing in workers if standing.megabytes is not None]
    return {
        "worker": name,
        "step": span(standing.step for standing in present),
        "loss": _number(statistics.fmean(losses) if losses else None, ".4f"),
        "tokens/s": "",
        "last sync": _number(max((s.synced for s in workers if s.synced is not None), default=None), "d"),
        "MB sent": _number(sum(sent) if sent else None, ",.1f"),
        "held-out loss": _number(statistics.fmean(held_out) if held_out else None, ".4f"),
        "anchor": "",
    }


def _style(standing: Standing) -> str:
    if standing.state == LOST:
        return "bold red"
    return _COLORS[standing.worker % len(_COLORS)] if standing.takes_part else "yellow"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
