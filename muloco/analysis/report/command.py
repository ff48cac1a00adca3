"""`muloco report`."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from muloco.analysis.records.runs import Problem, find_folders, read_run
from muloco.analysis.report.contents import build
from muloco.analysis.report.writing import check_folder, write

NOTHING = 2


def run_report(
    paths: Sequence[Path], *, problems: Sequence[Problem] = (), out: Path, published: bool, console: Console
) -> int:
    """Writes a report on the runs below some paths.

    Args:
        paths: run folders, or folders of run folders.
        problems: what is known already to be missing.
        out: folder to write to.
        published: draw what the paper has published as well.
        console: what to tell the user.

    Returns:
        exit status: 0; 2 where there is nothing to report.

    Raises:
        UserError: `out` holds other files, or cannot be written.
    """
    check_folder(out)
    folders, not_found = find_folders(paths)
    problems, runs = [*problems, *not_found], []
    quiet = not folders or not console.is_terminal
    for folder in track(folders, description="reading runs", console=console, transient=True, disable=quiet):
        run, remarks = read_run(folder)
        runs += [run] if run else []
        problems += remarks
    report = build(runs, problems, published=published)
    for problem in problems:
        console.print(f"{problem.kind}: {problem.folder}: {problem.reason}", style="yellow", markup=False)
    if not report.sections:
        console.print("nothing to report: there is no finished run", style="red", markup=False)
        return NOTHING
    written = write(report, out)
    console.print(f"{report.counts}: {', '.join(map(str, written))}", markup=False)
    return 0
