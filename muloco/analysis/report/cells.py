"""A table: wide for the eye, with the published figure beside the measured one, and long for CSV."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

Row = tuple[str, ...]
OWN = "workers' own"
"""Header of columns with the mean of the workers' own losses, instead of the anchor's."""


@dataclass(frozen=True)
class Measured:
    """A value with what has to be known of it."""

    value: float
    spread: float | None = None
    seeds: int = 1
    note: str = ""
    """Which of which settings it is the best of."""


@dataclass(frozen=True)
class Listing:
    """A table as it is printed: each cell is what was measured, and what was published."""

    name: str
    """Of its CSV file."""
    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[tuple[str, str]]]
    notes: Sequence[str] = ()
    needs: str = ""

    def wide(self) -> "Listing":
        return self

    def long(self) -> Iterable[dict[str, str]]:
        """A line a row."""
        return (dict(zip(self.headers, (text for text, _ in row), strict=True)) for row in self.rows)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Values by row and column."""

    name: str
    """Of its CSV file."""
    title: str
    corner: Row
    """Headers of the columns that name a row."""
    across: str
    """What the columns are, such as `scale`."""
    measured: Mapping[tuple[Row, str], Measured]
    missing: Mapping[tuple[Row, str], str] = field(default_factory=dict)
    """Why a cell that belongs in the table has no value."""
    own: Mapping[tuple[Row, str], Measured] = field(default_factory=dict)
    """The same values of the workers' own losses, which have their own columns, with the published figures."""
    published: Mapping[tuple[Row, str], float] = field(default_factory=dict)
    form: str = ".4f"
    """How values are printed, as a format of Python."""
    unit: float = 1.0
    """What values are divided by where they are printed; they stay as they are in CSV files."""
    rows: Sequence[Row]
    columns: Sequence[str]
    notes: Sequence[str] = ()
    needs: str = ""
    """What there would have to be for it to have rows."""

    def with_own(self, other: "Table") -> "Table":
        """This table with the values of another one, of the workers' own losses, in additional columns."""
        return replace(self, own=other.measured)

    def number(self, value: float) -> str:
        return format(value / self.unit, self.form)

    def wide(self) -> Listing:
        """A row for each of `rows`; columns of row names that are empty everywhere are left out."""
        columns = [
            (column, own) for column in self.columns for own in (False, *([True] if self._has_own(column) else []))
        ]
        shown = [place for place in range(len(self.corner)) if any(row[place] for row in self.rows)]
        return Listing(
            name=self.name,
            title=self.title,
            headers=[*(self.corner[place] for place in shown), *(self._header(*one) for one in columns)],
            rows=[
                [*((row[place], "") for place in shown), *(self._cell(row, *one) for one in columns)]
                for row in self.rows
            ],
            notes=self.notes,
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

    def _has_own(self, column: str) -> bool:
        return any((row, column) in self.own for row in self.rows)

    def _header(self, column: str, own: bool) -> str:
        return f"{column}, {OWN}" if own else column

    def _cell(self, row: Row, column: str, own: bool) -> tuple[str, str]:
        """The measured value, and the published one where the two can be compared."""
        at = (row, column)
        value = (self.own if own else self.measured).get(at)
        text = self.missing.get(at, "") if value is None and not own else ""
        if value is not None:
            text = self.number(value.value)
            if value.spread is not None:
                text += f" ± {format(value.spread / self.unit, self.form.lstrip('+'))} (n={value.seeds})"
        published = self.published.get(at) if own == (at in self.own) else None
        return text, "" if published is None else self.number(published)
