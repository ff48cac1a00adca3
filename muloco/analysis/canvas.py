"""Figures that are written to files, independent of the matplotlib backend in the environment (MPLBACKEND)."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def canvas(rows: int, columns: int, *, width: float, height: float, name: str) -> Iterator[tuple[Any, Any]]:
    """A figure with a grid of axes, which is drawn on and saved within the context. It need not be closed.

    Args:
        rows, columns: number of rows and columns of the grid.
        width, height: in inches.
        name: makes the same SVG file each time.

    Yields:
        Matplotlib's figure, and its axes by row and column.
    """
    with _no_backend():
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    with matplotlib.rc_context({"svg.hashsalt": name, "font.size": 9, "axes.titlesize": 10}):
        figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.subplots(rows, columns, squeeze=False)


def save(sheet: Any, *paths: Path) -> None:
    """Writes a sheet to files whose endings name the formats. The same sheet gives the same bytes."""
    sheet.draw_without_rendering()
    sheet.set_layout_engine("none")  # so that all files have the same layout
    for path in paths:
        sheet.savefig(path, metadata={"Software": None} if path.suffix.lower() == ".png" else {"Date": None})


@contextlib.contextmanager
def _no_backend() -> Iterator[None]:
    """Hides the backend in the environment, since matplotlib refuses to be imported if it does not know it, as in a
    program that a notebook starts."""
    chosen = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if chosen is not None:
            os.environ["MPLBACKEND"] = chosen
