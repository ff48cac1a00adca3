"""Figures as PNG and SVG."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from muloco.analysis.canvas import settings, subplots
from muloco.analysis.report.chart import Figure, Panel, Series

_COLORS = ("#0b6e4f", "#c8553d", "#2f5d9b", "#e0a100", "#7d4ea3", "#3aa7a3", "#8a5a35", "#c2437d", "#5f7d1f", "#444444")
_MARKERS = "osD^vP*X"
_FAINT = 0.38
_ACROSS = 3
_MOST_TICKS = 9


def draw(figure: Figure, folder: Path) -> tuple[Path, Path]:
    """Writes `NAME.png` and `NAME.svg` into a folder, the same bytes for the same figure.

    Returns:
        both paths.
    """
    columns = min(_ACROSS, len(figure.panels))
    rows = math.ceil(len(figure.panels) / columns)
    width = 4.6 * columns + 0.8
    labels = {_label(series, figure): None for panel in figure.panels for series in panel.series if series.label}
    across = max(1, int(width / (0.055 * max(map(len, labels)) + 0.5)))
    height = 3.4 * rows + 0.17 * math.ceil(len(labels) / across)
    with settings({"svg.hashsalt": figure.name, "font.size": 9}):
        drawn, grid = subplots(rows, columns, figsize=(width, height), squeeze=False, dpi=130, layout="constrained")
        styles = _styles(figure.panels)
        for place, axes in enumerate(grid.flat):
            if place < len(figure.panels):
                _draw_panel(axes, figure.panels[place], styles, figure)
            else:
                axes.set_visible(False)
        handles = {
            label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        drawn.legend(handles.values(), handles, loc="outside lower center", ncols=across, frameon=False, fontsize=7)
        drawn.draw_without_rendering()
        drawn.set_layout_engine("none")  # it stays as it is now laid out, for both files
        paths = folder / f"{figure.name}.png", folder / f"{figure.name}.svg"
        drawn.savefig(paths[0], metadata={"Software": None})
        drawn.savefig(paths[1], metadata={"Date": None})
    return paths


def _label(series: Series, figure: Figure) -> str:
    """With `paper` where there is anything else; none for what goes with the series before it."""
    beside = series.published and not _all_published(figure)
    return f"{series.label} (paper)" if series.label and beside else series.label


def _all_published(figure: Figure) -> bool:
    return all(series.published for panel in figure.panels for series in panel.series)


def _styles(panels: Iterable[Panel]) -> dict[str, tuple[str, str]]:
    """Color and marker of each label, the same in all panels."""
    labels = dict.fromkeys(_root(series) for panel in panels for series in panel.series if series.label)
    return {
        label: (_COLORS[place % len(_COLORS)], _MARKERS[(place // len(_COLORS) + place) % len(_MARKERS)])
        for place, label in enumerate(labels)
    }


def _root(series: Series) -> str:
    return series.label.split(":")[0]


def _draw_panel(axes: Any, panel: Panel, styles: dict[str, tuple[str, str]], figure: Figure) -> None:
    color, marker = "black", "o"
    for series in panel.series:
        if series.label:  # one without goes with the one before it
            color, marker = styles[_root(series)]
        faint = series.published and not _all_published(figure)
        look = {
            "linestyle": ("--" if faint else "-") if series.line else "none",
            "color": color,
            "linewidth": 1.3,
            "alpha": _FAINT if faint else 1.0,
            "label": _label(series, figure) or None,
        }
        if series.level:
            axes.axhline(series.y[0], **look)
            continue
        axes.plot(series.x, series.y, marker=marker if series.points else "none", markersize=4, **look)
        bars = [(x, y, s) for x, y, s in zip(series.x, series.y, series.spread, strict=False) if s is not None]
        if bars:
            x, y, spread = zip(*bars, strict=True)
            axes.errorbar(x, y, yerr=spread, fmt="none", color=color, capsize=2, linewidth=1)
    axes.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
    if panel.xlog:
        axes.set_xscale("log", base=panel.xlog)
    if panel.ylog:
        axes.set_yscale("log", base=panel.ylog)
    _plain_ticks(axes, panel)
    axes.grid(alpha=0.25)


def _plain_ticks(axes: Any, panel: Panel) -> None:
    """What stands at few places of a logarithmic axis has its numbers written out there."""
    from matplotlib.ticker import NullFormatter

    for axis, base, values in (
        (axes.xaxis, panel.xlog, {x for series in panel.series for x in series.x}),
        (axes.yaxis, panel.ylog, {y for series in panel.series for y in series.y}),
    ):
        if base and len(values) <= _MOST_TICKS:
            axis.set_ticks(sorted(values), [_short(value) for value in sorted(values)])
            axis.minorticks_off()
        elif base and max(values) > 10 * min(values):
            axis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    """4194304 as 4.2M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2g}{unit}" if value / size < 100 else f"{value / size:.0f}{unit}"
    return f"{value:g}"
