"""A figure as data: panels of series, which `muloco.analysis.draw` draws. Neither knows anything of runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The part of a panel that one entry of the legend describes."""

    label: str
    look: str = ""
    """Name that decides its color, marker and dash (`muloco.analysis.palette`). By default it is the label; a series
    with neither looks like the one before it."""
    published: bool = False
    """Whether it is the paper's; such series are drawn faint."""


@dataclass(frozen=True, kw_only=True)
class Series(Drawn):
    """A line, points, or both. A value of NaN makes a gap."""

    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float | None] = ()
    """Standard deviation of each point over the seeds; empty where there are none."""
    line: bool = True
    points: bool = True
    marker: str = ""
    """Marker of Matplotlib for the points, instead of that of the look."""
    thin: bool = False
    """Whether the line is thin and faint, as for one of many workers."""
    horizontal: bool = False
    """Whether it is a line across the panel at its only y; there is no x."""


@dataclass(frozen=True, kw_only=True)
class Bars(Drawn):
    """A bar at each category of the panel, beside those of the other series."""

    heights: Sequence[float | None]
    """One for each category; None: no bar."""


@dataclass(frozen=True, kw_only=True)
class Boxes(Drawn):
    """A box from the lower to the upper quartile at each category of the panel, with whiskers, median and mean."""

    values: Sequence[Sequence[float]]
    """A distribution for each category; empty: no box."""
    crosses: Sequence[float | None]
    """A single value for each category, to compare the box with."""
    crosses_label: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    title: str
    xlabel: str
    ylabel: str
    series: Sequence[Drawn]
    categories: Sequence[str] = ()
    """Labels along x, where the series are bars or boxes."""
    ticks: Sequence[float] = ()
    """Values of x that are marked on the lower axis."""
    ticks_label: str = ""
    xlog: int | None = None
    """Base of a logarithmic axis."""
    ylog: int | None = None
    zero: bool = False
    """Whether the y axis begins at zero."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    name: str
    """Name of its files."""
    title: str
    panels: Sequence[Panel]
    caption: str = ""
    """Text that a page prints below the figure."""
    note: str = ""
    """Text in the figure itself, above its legend."""
    panel_size: tuple[float, float] = (4.6, 3.4)
    """Width and height of a panel in inches."""
    across: int = 3
    """The most panels beside each other."""
    needs: str = ""
    """The runs that it takes for the figure to have panels."""

    @property
    def series(self) -> list[Drawn]:
        """The series of all panels."""
        return [series for panel in self.panels for series in panel.series]

    def with_data(self, *, published: bool = False) -> "Figure":
        """The figure without the panels that have no series or, unless published ones count, no others."""
        panels = [panel for panel in self.panels if any(published or not series.published for series in panel.series)]
        return replace(self, panels=panels)


def wall_clock_panel(title: str, series: Sequence[Series], unit: str) -> Panel:
    """Time against bandwidth."""
    xlabel = "bandwidth of a worker's link (Gbit/s)"
    return Panel(title=title, xlabel=xlabel, ylabel=f"wall-clock time ({unit})", series=series, xlog=10, ylog=10)
