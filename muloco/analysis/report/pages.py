"""A report as Markdown, and as one self-contained HTML page: without network and scripts, with its images inside."""

import base64
from collections.abc import Iterator, Mapping
from html import escape

from muloco.analysis.report.contents import LEGEND, Report, Section
from muloco.analysis.table import TextTable, markdown_lines

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2321; --paper: #fbfbf9; --line: #d8d9d3; --faint: #6a706d;
  --mark: #0b6e4f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7e5; --paper: #171a19; --line: #3a403d; --faint: #9aa29e; --mark: #6fcfa9; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(.8rem, 4vw, 3rem) 4rem; max-width: 76rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.25; text-wrap: balance; overflow-wrap: anywhere; }
h2 { margin-top: 3rem; padding-top: .8rem; border-top: 2px solid var(--mark); font-size: 1.2rem; }
h3 { margin: 2rem 0 .6rem; font-size: 1rem; }
p, li { max-width: 68ch; }
a { color: var(--mark); }
.note, .theirs { color: var(--faint); }
.note { font-size: .87rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { border-bottom-width: 2px; white-space: nowrap; }
td { overflow-wrap: anywhere; min-width: 3.2rem; }
td.value { white-space: nowrap; }
figure { margin: 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 4px; }
"""


def markdown(report: Report) -> Iterator[str]:
    """The lines of report.md, with figures by their paths beside it."""
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


def page(report: Report, images: Mapping[str, bytes]) -> Iterator[str]:
    """The lines of report.html.

    Args:
        report: what to show.
        images: contents of the SVG files by name.
    """
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>muloco report</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>muloco report</h1>"
    yield f"<p>{escape(report.counts)}.</p>\n<p class=note>{escape(LEGEND)}</p>"
    if len(report.sections) > 1:
        links = "".join(
            f'<li><a href="#s{n}">{escape(section.title)}</a></li>' for n, section in enumerate(report.sections)
        )
        yield f"<ul>{links}</ul>"
    if report.problems.rows:
        yield f"<h2>{escape(report.problems.title)}</h2>"
        yield from _table(report.problems)
    for number, section in enumerate(report.sections):
        yield f'<h2 id="s{number}">{escape(section.title)}</h2>'
        yield from _section(section, images)
    yield "</body>\n</html>"


def _section(section: Section, images: Mapping[str, bytes]) -> Iterator[str]:
    for table in section.tables:
        wide = table.wide()
        yield f"<h3>{escape(wide.title)}</h3>"
        yield from _table(wide)
    for figure in section.figures:
        data = base64.b64encode(images[f"{figure.name}.svg"]).decode()
        yield f"<h3>{escape(figure.title)}</h3>\n<figure>"
        yield f'<img alt="{escape(figure.title)}" src="data:image/svg+xml;base64,{data}">'
        yield f"<figcaption class=note>{escape(figure.caption)}</figcaption>\n</figure>"
    if section.missing:
        lines = "".join(f"<li>{escape(names)}: needs {escape(needs)}</li>" for needs, names in section.missing.items())
        yield f"<h3>Not here</h3>\n<ul class=note>{lines}</ul>"


def _table(table: TextTable) -> Iterator[str]:
    yield "<div class=scroll><table>"
    yield f"<tr>{''.join(f'<th>{escape(header)}</th>' for header in table.headers)}</tr>"
    for row in table.cells():
        yield f"<tr>{''.join(_cell(text, published) for text, published in row)}</tr>"
    yield "</table></div>"
    for note in table.notes:
        yield f"<p class=note>{escape(note)}</p>"


def _cell(text: str, published: str) -> str:
    beside = f" <span class=theirs>[{escape(published)}]</span>" if published else ""
    short = " class=value" if len(text) < 40 else ""
    return f"<td{short}>{escape(text)}{beside}</td>"
