"""Tables: of values by row and column, and of text as it is printed; as Markdown and as CSV."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

Row = tuple[str, ...]
OWN = "workers' own"
"""Header of columns with the mean of the workers' own losses, instead of the anchor's."""


@dataclass(frozen=True)
class Measured:
    """A measured value, and what a reader has to know about it."""

    value: float
    spread: float | None = None
    seeds: int = 1
    note: str = ""
    """The settings among which it is the best."""


@dataclass(frozen=True)
class TextTable:
    """A table as it is printed."""

    name: str
    """Name of its CSV file."""
    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    needs: str = ""
    """What it would take for the table to have rows."""
    published: Mapping[tuple[int, int], str] = field(default_factory=dict)
    """Published values, which are printed in brackets, by the number of their row and column."""

    def wide(self) -> "TextTable":
        return self

    def cells(self) -> Iterator[list[tuple[str, str]]]:
        """For each row, the text of each cell and the published value beside it; empty where there is none."""
        for number, row in enumerate(self.rows):
            yield [(text, self.published.get((number, place), "")) for place, text in enumerate(row)]

    def long(self) -> Iterable[dict[str, str]]:
        """One line for each row."""
        return (dict(zip(self.headers, row, strict=True)) for row in self.rows)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Values by row and column."""

    name: str
    """Name of its CSV file."""
    title: str
    corner: Row
    """Headers of the columns that name a row."""
    across: str
    """What the columns are, such as `scale`."""
    measured: Mapping[tuple[Row, str], Measured]
    missing: Mapping[tuple[Row, str], str] = field(default_factory=dict)
    """Why a cell that belongs in the table has no value."""
    own: Mapping[tuple[Row, str], Measured] = field(default_factory=dict)
    """The values for the workers' own losses, which have columns of their own, with the published figures."""
    published: Mapping[tuple[Row, str], float] = field(default_factory=dict)
    form: str = ".4f"
    """How values are printed, as a format of Python."""
    unit: float = 1.0
    """Divisor of the values when they are printed; in CSV files they are not divided."""
    rows: Sequence[Row]
    columns: Sequence[str]
    notes: Sequence[str] = ()
    needs: str = ""
    """What it would take for the table to have rows."""

    def with_own(self, other: "Table") -> "Table":
        """This table with the values of another one, of the workers' own losses, in additional columns."""
        return replace(self, own=other.measured)

    def number(self, value: float) -> str:
        return format(value / self.unit, self.form)

    def wide(self) -> TextTable:
        """The table with a line for each of `rows`. Columns of row names that are empty everywhere are left out."""
        of_own = {column for _, column in self.own}
        columns = [(column, own) for column in self.columns for own in (False, True) if not own or column in of_own]
        shown = [place for place in range(len(self.corner)) if any(row[place] for row in self.rows)]
        published = {
            (number, len(shown) + place): self.number(self.published[row, column])
            for number, row in enumerate(self.rows)
            for place, (column, own) in enumerate(columns)
            if (row, column) in self.published and own == ((row, column) in self.own)
        }
        return TextTable(
            name=self.name,
            title=self.title,
            headers=[self.corner[place] for place in shown]
            + [f"{column}, {OWN}" if own else column for column, own in columns],
            rows=[
                [row[place] for place in shown] + [self._text(row, column, own) for column, own in columns]
                for row in self.rows
            ],
            notes=self.notes,
            published=published,
        )

    def long(self) -> Iterable[dict[str, str]]:
        """A line for each cell that has something in it."""
        for row in self.rows:
            for column in self.columns:
                at = (row, column)
                if at in self.measured or at in self.published or at in self.missing:
                    yield {
                        **dict(zip(self.corner, row, strict=True)),
                        self.across: column,
                        **self._values(at),
                    }

    def _values(self, at: tuple[Row, str]) -> dict[str, str]:
        measured = self.measured.get(at)
        own, published = self.own.get(at), self.published.get(at)
        return {
            "measured": "" if measured is None else repr(measured.value),
            "spread": "" if measured is None or measured.spread is None else repr(measured.spread),
            "seeds": "" if measured is None else str(measured.seeds),
            "workers_own": "" if own is None else repr(own.value),
            "published": "" if published is None else repr(published),
            "note": measured.note if measured else self.missing.get(at, ""),
        }

    def _text(self, row: Row, column: str, own: bool) -> str:
        """Returns the measured value as text, or the reason why it is missing."""
        measured = (self.own if own else self.measured).get((row, column))
        if measured is None:
            return "" if own else self.missing.get((row, column), "")
        text = self.number(measured.value)
        if measured.spread is not None:
            text += f" ± {format(measured.spread / self.unit, self.form.lstrip('+'))} (n={measured.seeds})"
        return text


def markdown_lines(table: TextTable, *, level: int | None = None) -> Iterator[str]:
    """The lines of a table in Markdown, with its notes.

    Args:
        table: to be written.
        level: of the heading that has the table's title; None: no heading.
    """
    if level is not None:
        yield from (f"{'#' * level} {table.title}", "")
    yield _markdown_row(table.headers)
    yield _markdown_row(["---"] * len(table.headers))
    for row in table.cells():
        yield _markdown_row(f"{text} [{published}]" if published else text for text, published in row)
    yield ""
    for note in table.notes:
        yield from (note, "")


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.strip().replace('|', '&#124;') for cell in cells)} |"


def to_csv(lines: Iterable[Mapping[str, object]]) -> str:
    """CSV with a header, from at least one line, all of the same columns."""
    lines = list(lines)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
