"""Tables for a terminal: a table that is too wide becomes several below each other; words and names stay whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

_FRAME = 1
_AROUND_A_COLUMN = 3  # a blank on either side, and a line


@dataclass(frozen=True)
class Column:
    """A column of a table, with one cell for each row."""

    header: str
    cells: Sequence[str | Text]

    @property
    def width(self) -> int:
        return max(cell_len(str(cell)) for cell in (self.header, *self.cells))


def fitted(title: str, names: Column, columns: Sequence[Column], *, width: int) -> list[Table]:
    """Tables with all columns; each table has as many as fit next to the names of the rows, and the last one does not
    have a single column where it can share with the one before.

    Args:
        title: title of the first table.
        names: the first column of every table. Names that leave no room for another column are listed by number first,
            and the numbers stand for them.
        columns: columns of numbers, aligned to the right.
        width: width of the terminal.
    """
    tables = []
    if _width([names, max(columns, key=lambda column: column.width)]) > width:
        numbers = Column("#", [str(number) for number in range(1, len(names.cells) + 1)])
        tables.append(_table(title, [numbers, names], names, box=None))
        names, title = numbers, ""
    groups: list[list[Column]] = [[]]
    for column in columns:
        if groups[-1] and _width([names, *groups[-1], column]) > width:
            groups.append([])
        groups[-1].append(column)
    if len(groups) > 1 and len(groups[-1]) == 1 and len(groups[-2]) > 2:
        pair = [groups[-2][-1], *groups[-1]]
        if _width([names, *pair]) <= width:
            groups[-2:] = [groups[-2][:-1], pair]
    return tables + [_table("" if at else title, [names, *group], names) for at, group in enumerate(groups)]


def _width(columns: Sequence[Column]) -> int:
    return _FRAME + sum(column.width + _AROUND_A_COLUMN for column in columns)


def _table(title: str, columns: Sequence[Column], names: Column, **options: Any) -> Table:
    """A table with the names in one of its columns, and numbers in the others."""
    table = Table(title=Text(title) if title else None, title_justify="left", **options)
    for column in columns:
        if column is names:
            table.add_column(column.header, overflow="fold")
        else:
            table.add_column(column.header, justify="right", no_wrap=True)
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(_text, row))
    return table


def _text(cell: str | Text) -> Text:
    """Text that is printed as it is, without markup in square brackets."""
    return cell if isinstance(cell, Text) else Text(cell)
