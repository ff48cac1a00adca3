"""One view of all workers while they run: a table on a terminal, lines elsewhere."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from muloco.training.config import Config

_COLORS = ("cyan", "magenta", "green", "yellow", "blue", "red")
_WORTH_SHOWING = (" WARNING ", " ERROR ", " CRITICAL ", "Traceback")


class View:
    """Shows what metrics and logs say; use as a context.

    On a terminal: a table that is kept up to date, and above it the workers' warnings. Elsewhere: every line that a
    worker logs behind its name, and a line for each sync and validation.
    """

    def __init__(self, config: Config, console: Console):
        self._console = console
        self._steps = config.training.steps or 0
        self._workers: list[dict[str, Any]] = [{} for _ in range(config.workers)]
        name = TextColumn("{task.description}", markup=False)
        self._progress = Progress(name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console)
        self._task = self._progress.add_task(str(config.run.name), total=self._steps)
        self._live = Live(self._render(), console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "View":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def update(self, lines: Iterable[dict[str, Any]]) -> None:
        """Takes new lines of metrics."""
        for line in lines:
            state = self._workers[line["worker"]]
            state.update(line)
            if line.get("event") == "sync":
                state["sent"] = state.get("sent", 0) + line["bytes_sent"]
                state["synced"] = line["step"]
            if not self._console.is_terminal and line["worker"] == 0:
                self._tell(line)
        self._progress.update(self._task, completed=min(state.get("step", 0) for state in self._workers))
        self._live.update(self._render())

    def log(self, worker: int, line: str) -> None:
        """Shows a line of a worker's log, or, on a terminal, only those that need attention."""
        if not self._console.is_terminal or any(word in line for word in _WORTH_SHOWING):
            prefix = Text(f"worker {worker} | ", style=_COLORS[worker % len(_COLORS)])
            self._console.print(prefix + Text(line), soft_wrap=True)

    def _tell(self, line: dict[str, Any]) -> None:
        if line.get("event") == "sync":
            what = (
                f"sync of {line['participants']} worker{'s' * (line['participants'] > 1)}, "
                f"{line['bytes_sent'] / 1e6:.1f} MB sent by each, {line['seconds_waited']:.2f} s waited, "
                f"anchor {line['digest']}"
            )
        elif "validation_loss" in line:
            what = f"validation loss {line['validation_loss']:.4f}"
        else:
            return
        self._console.print(Text(f"step {line['step']}/{self._steps}: {what}"), soft_wrap=True)

    def _render(self) -> RenderableType:
        table = Table(box=None, header_style="dim")
        for heading in ("worker", "step", "loss", "tokens/s", "last sync", "MB sent", "held-out loss", "anchor"):
            table.add_column(heading, justify="left" if heading == "anchor" else "right")
        for worker, state in enumerate(self._workers):
            table.add_row(
                Text(str(worker), style=_COLORS[worker % len(_COLORS)]),
                _show(state, "step", "d"),
                _show(state, "loss", ".4f"),
                _show(state, "tokens_per_second", ",.0f"),
                _show(state, "synced", "d"),
                f"{state['sent'] / 1e6:,.1f}" if "sent" in state else "-",
                _show(state, "validation_loss", ".4f"),
                _show(state, "digest", ""),
            )
        return Group(self._progress, table)


def _show(state: dict[str, Any], key: str, form: str) -> str:
    return format(state[key], form) if key in state else "-"
