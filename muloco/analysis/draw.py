"""Figures as PNG and SVG."""

import math
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from muloco.analysis.canvas import canvas, save
from muloco.analysis.chart import Figure, Panel, Series
from muloco.analysis.palette import Look, looks

_FAINT = 0.45
_ACROSS = 3
_MOST_TICKS = 9
_FEW_DECADES = 200
"""The ratio of largest to smallest value up to which a logarithmic axis has numbers at 2 and 5 as well."""
_SHORTENED = 10_000
_SYMBOLS = {
    "K=": "K: number of workers",
    "DP ": "DP: data-parallel training, without outer steps",
    "H=": "H: inner steps between two syncs (30 where it is not given)",
    "J=": "J: fragments",
    "tau=": "tau: inner steps during which a fragment is exchanged",
    "alpha=": "alpha: share of the local weights kept at a merge",
    "error feedback": "error feedback: what compression leaves out is sent later",
}
"""Explanations of the symbols in labels, for readers who see only the figure."""


def draw(figure: Figure, folder: Path) -> tuple[Path, Path]:
    """Writes `NAME.png` and `NAME.svg` into a folder, the same bytes for the same figure.

    Returns:
        both paths.
    """
    columns = min(_ACROSS, len(figure.panels))
    rows = math.ceil(len(figure.panels) / columns)
    width = 4.6 * columns + 0.8
    every = [series for panel in figure.panels for series in panel.series]
    labels = list(dict.fromkeys(_label(series, figure) for series in every if series.label))
    across = max(1, int(width / (0.055 * max(map(len, labels)) + 0.6)))
    notes = textwrap.wrap(_explained(labels), int(width / 0.055))
    height = 3.4 * rows + 0.17 * math.ceil(len(labels) / across) + 0.12 * len(notes)
    styles = looks(_look(series) for series in every if series.label)
    paths = folder / f"{figure.name}.png", folder / f"{figure.name}.svg"
    with canvas(rows, columns, width=width, height=height, name=figure.name) as (sheet, grid):
        for place, axes in enumerate(grid.flat):
            if place < len(figure.panels):
                _draw_panel(axes, figure.panels[place], styles, figure)
            else:
                axes.set_visible(False)
        handles = {
            "\n".join(textwrap.wrap(label, int(width / 0.055) - 12)): handle
            for axes in grid.flat
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        legend = sheet.legend(
            handles.values(), handles, loc="outside lower center", ncols=across, frameon=False, handlelength=3.2
        )
        for text in legend.get_texts():
            text.set_fontsize(7)
        if notes:
            legend.set_title("\n".join(notes), prop={"size": 6})
            legend.get_title().set_color("0.35")
        save(sheet, *paths)
    return paths


def _explained(labels: Iterable[str]) -> str:
    """Explains the symbols in the labels."""
    said = [meaning for symbol, meaning in _SYMBOLS.items() if any(symbol in label for label in labels)]
    return "; ".join(said)


def _label(series: Series, figure: Figure) -> str:
    """With `paper` where there is anything else; none for what goes with the series before it."""
    beside = series.published and not _all_published(figure)
    return f"{series.label} (paper)" if series.label and beside else series.label


def _all_published(figure: Figure) -> bool:
    return all(series.published for panel in figure.panels for series in panel.series)


def _look(series: Series) -> str:
    return series.look or series.label


def _draw_panel(axes: Any, panel: Panel, styles: Mapping[str, Look], figure: Figure) -> None:
    style = Look("black", "o", "-")
    for series in panel.series:
        if series.label:  # one without goes with the one before it
            style = styles[_look(series)]
        faint = series.published and not _all_published(figure)
        look = {
            "linestyle": style.dash if series.line else "none",
            "color": style.color,
            "linewidth": 1.3,
            "alpha": _FAINT if faint else 1.0,
            "label": _label(series, figure) or None,
        }
        if series.level:
            axes.axhline(series.y[0], **look)
            continue
        marker = style.marker if series.points or len(series.x) == 1 else "none"
        hollow = {"markerfacecolor": "white"} if faint else {}
        axes.plot(series.x, series.y, marker=marker, markersize=4, **hollow, **look)
        bars = [(x, y, s) for x, y, s in zip(series.x, series.y, series.spread, strict=False) if s is not None]
        if bars:
            x, y, spread = zip(*bars, strict=True)
            axes.errorbar(x, y, yerr=spread, fmt="none", color=style.color, capsize=2, linewidth=1)
    axes.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
    if panel.zero:
        axes.set_ylim(0, 1.1 * max(y for series in panel.series for y in series.y))  # room above the highest
    _scales(axes, panel)
    axes.grid(alpha=0.25)


def _scales(axes: Any, panel: Panel) -> None:
    """Logarithmic axes, and numbers as people write them, such as 4.2M. If a logarithmic axis
    has values at few places, its numbers are at these."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    short = FuncFormatter(lambda value, _: _short(value))
    for axis, scale, base, values in (
        (axes.xaxis, axes.set_xscale, panel.xlog, {x for series in panel.series for x in series.x}),
        (axes.yaxis, axes.set_yscale, panel.ylog, {y for series in panel.series for y in series.y}),
    ):
        values = {value for value in values if math.isfinite(value) and (value > 0 or not base)}
        if not values:
            continue
        if base:
            scale("log", base=base)
        if base and len(values) <= _MOST_TICKS:
            axis.set_ticks(sorted(values), [_short(value) for value in sorted(values)])
            axis.minorticks_off()
        elif base and max(values) < _FEW_DECADES * min(values):
            axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
            axis.set_major_formatter(short)
            axis.minorticks_off()
        elif max(values) >= _SHORTENED and not base:
            axis.set_major_formatter(short)


def _short(value: float) -> str:
    """4194304 as 4.2M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2g}{unit}" if value / size < 100 else f"{value / size:.0f}{unit}"
    return f"{value:g}"
