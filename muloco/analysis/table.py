"""Tables as they are printed, as Markdown and as CSV."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

OWN = "workers' own"
"""Header of columns with the mean of the workers' own losses, instead of the anchor's."""


@dataclass(frozen=True)
class TextTable:
    """A table as it is printed."""

    name: str
    """Name of its CSV file."""
    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
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


def markdown_lines(table: TextTable, *, level: int) -> Iterator[str]:
    """The lines of a table in Markdown: a heading of this level with its title, its rows and its notes."""
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
