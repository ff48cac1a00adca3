"""A report as Markdown."""

from collections.abc import Iterator

from muloco.analysis.report.contents import LEGEND, Report
from muloco.analysis.table import markdown_lines


def markdown(report: Report) -> str:
    """report.md, with figures by their paths beside it."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield from ("# muloco report", "", f"{report.counts}.", "", LEGEND, "")
    if report.problems.rows:
        yield from markdown_lines(report.problems, level=2)
    for section in report.sections:
        yield from (f"## {section.title}", "")
        for table in section.tables:
            yield from markdown_lines(table.wide(), level=3)
        for figure in section.figures:
            yield from (f"### {figure.title}", "")
            yield from (f"![{figure.title}](figures/{figure.name}.png)", "", figure.caption, "")
        if section.missing:
            yield from ("### Not here", "")
            yield from (f"- {names}: needs {needs}" for needs, names in section.missing.items())
            yield ""
