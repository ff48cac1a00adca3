"""A report as Markdown."""

from collections.abc import Iterator

from muloco.analysis.report.cells import Listing
from muloco.analysis.report.contents import LEGEND, Report, Section


def markdown(report: Report) -> str:
    """report.md, with figures by their paths beside it."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield from ("# muloco report", "", f"{report.counts}.", "", LEGEND, "")
    if report.problems.rows:
        yield from ("## " + report.problems.title, "")
        yield from table_lines(report.problems)
    for section in report.sections:
        yield from (f"## {section.title}", "")
        yield from _section(section)


def _section(section: Section) -> Iterator[str]:
    for table in section.tables:
        wide = table.wide()
        yield from (f"### {wide.title}", "")
        yield from table_lines(wide)
    for figure in section.figures:
        yield from (f"### {figure.title}", "")
        yield from (f"![{figure.title}](figures/{figure.name}{section.suffix}.png)", "", figure.caption, "")
    if section.skipped:
        yield from ("### Not here", "")
        yield from (f"- {skipped.name}: needs {skipped.needs}" for skipped in section.skipped)
        yield ""


def table_lines(table: Listing) -> Iterator[str]:
    """A table with its notes."""
    yield _row(table.headers)
    yield _row(["---"] * len(table.headers))
    for row in table.rows:
        yield _row([text + (f" [{theirs}]" if theirs else "") for text, theirs in row])
    yield ""
    for note in table.notes:
        yield from (note, "")


def _row(cells) -> str:
    return f"| {' | '.join(str(cell).strip().replace('|', '&#124;') for cell in cells)} |"
