"""From the cells of a table to the lines of a figure."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from muloco.analysis.chart import Series
from muloco.analysis.table import Row, Table


@dataclass(frozen=True)
class Mark:
    """One cell's value: what was measured, or what was published."""

    row: Row
    """Scale, method, K, variant."""
    column: str
    value: float
    spread: float | None
    published: bool

    @property
    def label(self) -> str:
        return label(self.row)


def marks(table: Table, *, published: bool) -> Iterator[Mark]:
    """All values of a table in its order, what was measured first; what is published if asked for."""
    places = [(row, column) for row in table.rows for column in table.columns]
    for row, column in places:
        if (one := table.measured.get((row, column))) is not None:
            yield Mark(row, column, one.value, one.spread, False)
    for row, column in places:
        if published and (row, column) in table.published:
            yield Mark(row, column, table.published[row, column], None, True)


def lines(
    these: Iterable[Mark], x: Callable[[Mark], float], *, name: Callable[[Mark], str] = lambda mark: mark.label
) -> list[Series]:
    """A line for each name, published ones apart, along x."""
    named: dict[tuple[str, bool], list[Mark]] = {}
    for mark in these:
        named.setdefault((name(mark), mark.published), []).append(mark)
    return [
        Series(
            label=at,
            x=[x(mark) for mark in ordered],
            y=[mark.value for mark in ordered],
            spread=[mark.spread for mark in ordered],
            published=published,
        )
        for (at, published), found in named.items()
        for ordered in [sorted(found, key=x)]
    ]


def label(row: Row) -> str:
    """Of a line: all that names its row, but for the scale."""
    _, method, workers, variant = row
    return ", ".join(filter(None, (f"{method} K={workers}" if workers else method, variant)))
