"""A figure as data: panels of series. What draws it knows nothing of runs."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line or row of points."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float | None] = ()
    """Of each point, over seeds; empty where there are none."""
    look: str = ""
    """The name that decides its color, marker and dash (`muloco.analysis.palette`); empty: the label."""
    published: bool = False
    """The paper's; drawn faint."""
    line: bool = True
    points: bool = True
    level: bool = False
    """A level line across the panel at the only y; there is no x."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    title: str
    xlabel: str
    ylabel: str
    series: Sequence[Series]
    xlog: int | None = None
    """Base of a logarithmic axis."""
    ylog: int | None = None
    zero: bool = False
    """Whether the y axis begins at zero."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    name: str
    """Of its files."""
    title: str
    panels: Sequence[Panel]
    caption: str


@dataclass(frozen=True)
class Skipped:
    """A figure for which data is missing."""

    name: str
    needs: str


def assemble(
    name: str, title: str, panels: Sequence[Panel], *, caption: str, needs: str, paper: bool
) -> Figure | Skipped:
    """A figure of the panels that have something to show.

    Args:
        name: of its files.
        title: for people.
        panels: some may have no series.
        caption: under it.
        needs: what is missing if nothing is to be shown.
        paper: whether panels count that show nothing but what is published.
    """
    shown = [panel for panel in panels if any(paper or not series.published for series in panel.series)]
    return Figure(name=name, title=title, panels=shown, caption=caption) if shown else Skipped(name, needs)
