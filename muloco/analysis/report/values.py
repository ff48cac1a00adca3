"""From the values of a table to the series of a figure."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from muloco.analysis.chart import Series
from muloco.analysis.table import Row, Table


@dataclass(frozen=True)
class Value:
    """A value of a table: what was measured, or what was published."""

    row: Row
    """Scale, method, K, variant."""
    column: str
    number: float
    spread: float | None
    published: bool

    @property
    def label(self) -> str:
        return label(self.row)


def values(table: Table, *, published: bool) -> Iterator[Value]:
    """All values of a table in its order, what was measured first; what is published if asked for."""
    places = [(row, column) for row in table.rows for column in table.columns]
    for row, column in places:
        if (measured := table.measured.get((row, column))) is not None:
            yield Value(row, column, measured.value, measured.spread, published=False)
    for row, column in places:
        if published and (row, column) in table.published:
            yield Value(row, column, table.published[row, column], None, published=True)


def to_series(
    them: Iterable[Value], x: Callable[[Value], float], *, name: Callable[[Value], str] = lambda value: value.label
) -> list[Series]:
    """A series along x for each name; published values are in series of their own."""
    named: dict[tuple[str, bool], list[Value]] = {}
    for value in them:
        named.setdefault((name(value), value.published), []).append(value)
    return [
        Series(
            label=at,
            x=[x(value) for value in ordered],
            y=[value.number for value in ordered],
            spread=[value.spread for value in ordered],
            published=published,
        )
        for (at, published), members in named.items()
        for ordered in [sorted(members, key=x)]
    ]


def label(row: Row) -> str:
    """The label of a row's series: all that names the row except the scale."""
    _, method, workers, variant = row
    return ", ".join(filter(None, (f"{method} K={workers}" if workers else method, variant)))
