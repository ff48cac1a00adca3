"""Figures that go into files, whatever backend the environment names for windows or notebooks (MPLBACKEND)."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any


def subplots(rows: int = 1, columns: int = 1, *, squeeze: bool = True, **options: Any) -> tuple[Any, Any]:
    """A figure and its axes, as `matplotlib.pyplot.subplots` gives them, but of no backend. It needs no closing.

    Args:
        rows, columns: of the axes.
        squeeze: leave out dimensions of the array of axes that are 1.
        options: of `matplotlib.figure.Figure`.
    """
    with _no_backend():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    figure = Figure(**options)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=squeeze)


@contextlib.contextmanager
def settings(values: Mapping[str, Any]) -> Iterator[None]:
    """Within the context matplotlib's settings (`rcParams`) have these values."""
    with _no_backend():
        import matplotlib
    with matplotlib.rc_context(dict(values)):  # type: ignore[arg-type]
        yield


@contextlib.contextmanager
def _no_backend() -> Iterator[None]:
    """matplotlib refuses to be imported where it does not know the backend, as in a program that a notebook starts."""
    chosen = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if chosen is not None:
            os.environ["MPLBACKEND"] = chosen
