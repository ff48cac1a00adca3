"""The folder of a report: what is written there, and what is left alone."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from muloco.analysis import output
from muloco.analysis.draw import draw
from muloco.analysis.report.contents import Report
from muloco.analysis.report.pages import markdown, page
from muloco.analysis.table import to_csv
from muloco.errors import UserError
from muloco.runs.folder import write_json

MARKER = ".muloco-report.json"
"""Lists the files that a report has written into its folder."""


def check_folder(folder: Path) -> None:
    """Raises UserError if the folder cannot be written, or holds files that no report has written."""
    output.check_folder("--out", folder)
    with output.writing("--out", folder):
        if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).exists():
            raise UserError(f"--out: {folder} holds files that no report has written; choose another folder")


def write(report: Report, folder: Path) -> list[Path]:
    """Writes report.md, report.html, tables and figures; those of an earlier report in this folder are removed.

    Returns:
        report.md and report.html.

    Raises:
        UserError: the folder or a file in it does not belong to a report, or cannot be written.
    """
    check_folder(folder)
    files = _files(report)
    with output.writing("--out", folder):
        earlier = _written_earlier(folder / MARKER)
        strange = [name for name in files if name not in earlier and (folder / name).exists()]
        if strange:
            raise UserError(
                f"--out: {folder / strange[0]} was not written by a report and is kept; choose another folder"
            )
        write_json(folder / MARKER, {"files": sorted(earlier | set(files))})
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        for name in earlier - set(files):
            (folder / Path(name).parent.name / Path(name).name).unlink(missing_ok=True)
        write_json(folder / MARKER, {"files": sorted(files)})
    return [folder / "report.md", folder / "report.html"]


def _written_earlier(marker: Path) -> set[str]:
    """Files of an earlier report in the folder.

    Raises:
        UserError: its list of them is damaged.
    """
    if not marker.exists():
        return set()
    try:
        return {str(name) for name in json.loads(marker.read_text(encoding="utf-8"))["files"]}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"--out: {marker} is damaged; choose another folder, or delete this one") from None


def tables_as_csv(report: Report) -> dict[str, str]:
    """CSV by table, a line a cell; its first column is the section."""
    rows: dict[str, list[dict[str, str]]] = {}
    for section in report.sections:
        for table in section.tables:
            rows.setdefault(table.name, []).extend({"section": section.title, **line} for line in table.long())
    if report.problems.rows:
        rows[report.problems.name] = list(report.problems.long())
    return {name: to_csv(lines) for name, lines in rows.items()}


def _files(report: Report) -> dict[str, bytes]:
    """Contents by path in the folder."""
    with TemporaryDirectory() as folder:
        drawn = [
            path for section in report.sections for figure in section.figures for path in draw(figure, Path(folder))
        ]
        pictures = {path.name: path.read_bytes() for path in drawn}
    texts = {
        "report.md": "\n".join(markdown(report)) + "\n",
        "report.html": "\n".join(page(report, pictures)) + "\n",
        **{f"tables/{name}.csv": text for name, text in tables_as_csv(report).items()},
    }
    figures = {f"figures/{name}": content for name, content in pictures.items()}
    return {**{name: text.encode("utf-8") for name, text in texts.items()}, **figures}
