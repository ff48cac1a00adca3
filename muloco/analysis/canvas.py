"""Sheets for figures: Matplotlib without pyplot, so that no display is asked for, whatever MPLBACKEND says."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def canvas(rows: int, columns: int, *, width: float, height: float, name: str) -> Iterator[tuple[Any, Any]]:
    """A sheet with a grid of axes; to be drawn on and saved within the context.

    Args:
        rows, columns: of the grid.
        width, height: in inches.
        name: makes the same SVG file each time.

    Yields:
        Matplotlib's figure, and its axes by row and column.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": name, "font.size": 9, "axes.titlesize": 10}):
        sheet = Figure(figsize=(width, height), dpi=130, layout="constrained")
        yield sheet, sheet.subplots(rows, columns, squeeze=False)


def save(sheet: Any, *paths: Path) -> None:
    """Writes a sheet, the kind of each file by its ending: the same bytes for the same sheet."""
    sheet.draw_without_rendering()
    sheet.set_layout_engine("none")  # it stays as it is now laid out, for all files
    for path in paths:
        sheet.savefig(path, metadata={"Software": None} if path.suffix.lower() == ".png" else {"Date": None})
