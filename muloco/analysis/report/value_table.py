"""Tables of values by row and column: what was measured, and what the paper has published for the same cell."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from muloco.analysis.chart import Series
from muloco.analysis.records.method import Variant
from muloco.analysis.records.pooling import Key, Measured
from muloco.analysis.table import OWN, TextTable
from muloco.model.flavors import aliases

SCALES = tuple(aliases())
CORNER = ("scale", "method", "K", "variant")
"""Headers of the columns that name a row."""
Cell = tuple[Key, str]
"""A row, whose scale is empty where scales are the columns, and a column."""


@dataclass(frozen=True)
class Value:
    """A value of a table: what was measured, or what was published."""

    scale: str
    variant: Variant
    column: str
    number: float
    spread: float | None = None
    published: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Values by row and column."""

    name: str
    """Name of its CSV file."""
    title: str
    across: str = "scale"
    """Name of the quantity in the columns."""
    column_order: Callable[[str], Any] = SCALES.index
    """Key by which columns are sorted."""
    measured: Mapping[Cell, Measured]
    missing: Mapping[Cell, str] = field(default_factory=dict)
    """Why a cell that belongs in the table has no value."""
    own: Mapping[Cell, Measured] = field(default_factory=dict)
    """The values for the workers' own losses, which have columns of their own, with the published figures."""
    published: Mapping[Cell, float] = field(default_factory=dict)
    everything: bool = False
    """Whether there are also rows and columns in which all is published and nothing is measured."""
    form: str = ".4f"
    """How values are printed, as a format of Python."""
    unit: float = 1.0
    """Divisor of the values when they are printed; in CSV files they are not divided."""
    notes: Sequence[str] = ()
    needs: str = ""
    """The runs that it takes for the table to have rows."""

    @cached_property
    def _filled(self) -> set[Cell]:
        return {*self.measured, *self.missing, *(self.published if self.everything else ())}

    @cached_property
    def rows(self) -> list[Key]:
        return sorted({row for row, _ in self._filled}, key=row_order)

    @cached_property
    def columns(self) -> list[str]:
        return sorted({column for _, column in self._filled}, key=self.column_order)

    @cached_property
    def beside(self) -> dict[Cell, float]:
        """The published values of the cells of this table. All ways to reduce are compared with the same figure."""
        beside = {}
        for row in self.rows:
            scale, variant = row
            codec = variant.codec and replace(variant.codec, reduce="reselect")
            for column in self.columns:
                if (twin := ((scale, replace(variant, codec=codec)), column)) in self.published:
                    beside[row, column] = self.published[twin]
        return beside

    def values(self, *, published: bool) -> Iterator[Value]:
        """Measured values in the order of the table; then the published ones if asked for, also in rows in which
        nothing is measured."""
        table = replace(self, everything=published)
        cells = [(row, column) for row in table.rows for column in table.columns]
        for row, column in cells:
            if measured := self.measured.get((row, column)):
                yield Value(*row, column, measured.value, measured.spread)
        for row, column in cells if published else ():
            if (row, column) in table.beside:
                yield Value(*row, column, table.beside[row, column], published=True)

    def wide(self) -> TextTable:
        """The table with a line for each of `rows`. Columns of row names that are empty everywhere are left out."""
        of_own = {column for _, column in self.own}
        columns = [(column, own) for column in self.columns for own in (False, True) if not own or column in of_own]
        names = [(scale, *variant.key) for scale, variant in self.rows]
        shown = [place for place in range(len(CORNER)) if any(name[place] for name in names)]
        published = {
            (number, len(shown) + place): self._number(self.beside[row, column])
            for number, row in enumerate(self.rows)
            for place, (column, own) in enumerate(columns)
            if (row, column) in self.beside and own == ((row, column) in self.own)
        }
        return TextTable(
            name=self.name,
            title=self.title,
            headers=[
                *(CORNER[place] for place in shown),
                *(f"{column}, {OWN}" if own else column for column, own in columns),
            ],
            rows=[
                [*(name[place] for place in shown), *(self._text((row, column), own) for column, own in columns)]
                for name, row in zip(names, self.rows, strict=True)
            ],
            notes=self.notes,
            published=published,
        )

    def long(self) -> Iterable[dict[str, str]]:
        """A line for each cell that has something in it."""
        for row in self.rows:
            for column in self.columns:
                cell, (scale, variant) = (row, column), row
                if cell in self.measured or cell in self.beside or cell in self.missing:
                    names = zip(CORNER, (scale, *variant.key), strict=True)
                    yield {**dict(names), self.across: column, **self._values(cell)}

    def _values(self, cell: Cell) -> dict[str, str]:
        measured, own = self.measured.get(cell), self.own.get(cell)
        numbers = {
            "measured": measured and measured.value,
            "spread": measured and measured.spread,
            "seeds": measured and measured.seeds,
            "workers_own": own and own.value,
            "published": self.beside.get(cell),
        }
        texts = {name: "" if number is None else repr(number) for name, number in numbers.items()}
        return {**texts, "note": measured.note if measured else self.missing.get(cell, "")}

    def _number(self, value: float) -> str:
        return format(value / self.unit, self.form)

    def _text(self, cell: Cell, own: bool) -> str:
        """Returns the measured value as text, or the reason why it is missing."""
        measured = (self.own if own else self.measured).get(cell)
        if measured is None:
            return "" if own else self.missing.get(cell, "")
        text = self._number(measured.value)
        if measured.spread is not None:
            text += f" ± {format(measured.spread / self.unit, self.form.lstrip('+'))} (n={measured.seeds})"
        return text


def row_order(row: Key) -> tuple:
    scale, variant = row
    return (SCALES.index(scale) if scale else -1), variant.order


def to_series(
    values: Iterable[Value],
    x: Callable[[Value], float],
    *,
    name: Callable[[Value], str] = lambda value: value.variant.label,
) -> list[Series]:
    """A series along x for each name; published values are in series of their own."""
    named: dict[tuple[str, bool], list[Value]] = {}
    for value in values:
        named.setdefault((name(value), value.published), []).append(value)
    return [
        Series(
            label=label,
            x=[x(value) for value in ordered],
            y=[value.number for value in ordered],
            spread=[value.spread for value in ordered],
            published=published,
        )
        for (label, published), members in named.items()
        for ordered in [sorted(members, key=x)]
    ]
