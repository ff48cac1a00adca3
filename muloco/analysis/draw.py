"""Figures as PNG and SVG, independent of the matplotlib backend in the environment (MPLBACKEND)."""

import contextlib
import math
import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from muloco.analysis.chart import Bars, Boxes, Drawn, Figure, Panel, Series
from muloco.analysis.palette import Look, looks

_FAINT = 0.45
_THIN = 0.3
_LONG_CATEGORY = 8
_SHORTEST_LABEL = 8
"""Characters for which a column of the legend has room at least."""
_MOST_TICKS = 9
_FEW_DECADES = 200
"""The ratio of largest to smallest value up to which a logarithmic axis has numbers at 2 and 5 as well."""
_NARROW = 3
"""The ratio up to which it has numbers at all digits."""
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


def draw(figure: Figure, folder: Path) -> list[Path]:
    """Writes `NAME.png` and `NAME.svg` into a folder.

    Returns:
        both paths.
    """
    paths = [folder / f"{figure.name}.png", folder / f"{figure.name}.svg"]
    draw_to(figure, *paths)
    return paths


def draw_to(figure: Figure, *paths: Path) -> None:
    """Writes a figure to files whose endings name the formats, the same bytes for the same figure."""
    columns = min(figure.across, len(figure.panels))
    rows = math.ceil(len(figure.panels) / columns)
    panel_width, panel_height = figure.panel_size
    width = panel_width * columns + 0.8
    mixed = not all(series.published for series in figure.series)
    labels = _labels(figure, mixed=mixed)
    across = max(1, int(width / (0.055 * max(_SHORTEST_LABEL, *map(len, labels)) + 0.6)))
    notes = textwrap.wrap("; ".join(filter(None, (figure.note, _explained(labels)))), int(width / 0.055))
    height = panel_height * rows + 0.17 * math.ceil(len(labels) / across) + 0.12 * len(notes)
    styles = looks(filter(None, map(_look, figure.series)))
    with _no_backend():
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Sheet
    with matplotlib.rc_context({"svg.hashsalt": figure.name, "font.size": 9, "axes.titlesize": 10}):
        sheet: Any = Sheet(figsize=(width, height), dpi=130, layout="constrained")
        FigureCanvasAgg(sheet)
        grid = sheet.subplots(rows, columns, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place < len(figure.panels):
                _draw_panel(axes, figure.panels[place], styles, mixed=mixed)
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


def _explained(labels: Iterable[str]) -> str:
    """Explains the symbols in the labels."""
    return "; ".join(meaning for symbol, meaning in _SYMBOLS.items() if any(symbol in label for label in labels))


def _labels(figure: Figure, *, mixed: bool) -> list[str]:
    """All labels of the legend, each once."""
    labels = []
    for panel in figure.panels:
        for series in panel.series:
            labels += [_label(series, mixed), series.crosses_label if isinstance(series, Boxes) else ""]
        labels.append(panel.ticks_label)
    return list(dict.fromkeys(filter(None, labels)))


def _label(series: Drawn, mixed: bool) -> str:
    """The label, marked where the paper's series are beside others; empty for a series without one."""
    return f"{series.label} (paper)" if series.label and series.published and mixed else series.label


def _look(series: Drawn) -> str:
    return series.look or series.label


def _draw_panel(axes: Any, panel: Panel, styles: Mapping[str, Look], *, mixed: bool) -> None:
    style = Look("black", "o", "-")
    lines = [series for series in panel.series if isinstance(series, Series)]
    grouped = [series for series in panel.series if not isinstance(series, Series)]
    if panel.ticks:
        on_the_axis = {"transform": axes.get_xaxis_transform(), "label": panel.ticks_label}
        axes.plot(panel.ticks, [0] * len(panel.ticks), "|", markersize=14, color="black", **on_the_axis)
    for series in panel.series:
        style = styles.get(_look(series), style)
        if isinstance(series, Series):
            _draw_series(axes, series, style, _label(series, mixed), faint=series.published and mixed)
            continue
        width = 0.7 / len(grouped)
        shift = (grouped.index(series) - (len(grouped) - 1) / 2) * width
        if isinstance(series, Bars):
            _draw_bars(axes, series, style.color, shift, width)
        elif isinstance(series, Boxes):
            _draw_boxes(axes, series, style.color, shift, width)
    axes.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
    if panel.categories:
        turned = {"rotation": 60, "ha": "right"} if max(map(len, panel.categories)) > _LONG_CATEGORY else {}
        axes.set_xticks(range(len(panel.categories)), panel.categories, **turned)
    else:
        if panel.zero:
            axes.set_ylim(0, 1.1 * max(y for series in lines for y in series.y))  # room above the highest
        _scales(axes, panel, lines)
    axes.grid(alpha=0.25)


def _draw_series(axes: Any, series: Series, style: Look, label: str, *, faint: bool) -> None:
    look = {
        "linestyle": style.dash if series.line else "none",
        "color": style.color,
        "linewidth": 0.6 if series.thin else 1.3,
        "alpha": _THIN if series.thin else _FAINT if faint else 1.0,
        "label": label or None,
    }
    if series.horizontal:
        axes.axhline(series.y[0], **look)
        return
    marker = (series.marker or style.marker) if series.points or len(series.x) == 1 else "none"
    hollow = {"markerfacecolor": "white"} if faint else {}
    axes.plot(series.x, series.y, marker=marker, markersize=4, **hollow, **look)
    if marker == "none" and (alone := _without_neighbours(series)):
        axes.plot(*zip(*alone, strict=True), ".", color=style.color, markersize=4)
    bars = [(x, y, s) for x, y, s in zip(series.x, series.y, series.spread, strict=False) if s is not None]
    if bars:
        x, y, spread = zip(*bars, strict=True)
        axes.errorbar(x, y, yerr=spread, fmt="none", color=style.color, capsize=2, linewidth=1)


def _without_neighbours(series: Series) -> list[tuple[float, float]]:
    """Points between two gaps, which a line does not show."""
    padded = [math.nan, *series.y, math.nan]
    return [
        (x, y)
        for x, before, y, after in zip(series.x, padded, series.y, padded[2:], strict=False)
        if math.isnan(before) and math.isnan(after) and not math.isnan(y)
    ]


def _draw_bars(axes: Any, bars: Bars, color: str, shift: float, width: float) -> None:
    shown = [(place + shift, height) for place, height in enumerate(bars.heights) if height is not None]
    axes.bar(*zip(*shown, strict=True), width, color=color, label=bars.label)


def _draw_boxes(axes: Any, boxes: Boxes, color: str, shift: float, width: float) -> None:
    shown = [place for place, values in enumerate(boxes.values) if values]
    drawn = axes.boxplot(
        [boxes.values[place] for place in shown],
        positions=[place + shift for place in shown],
        widths=0.8 * width,
        patch_artist=True,
        showmeans=True,
        meanprops={"marker": ".", "markerfacecolor": "black", "markeredgecolor": "black"},
        medianprops={"color": "black"},
    )
    for patch in drawn["boxes"]:
        patch.set(facecolor=color, alpha=0.6)
    axes.plot([], [], color=color, linewidth=6, alpha=0.6, label=boxes.label)
    crosses = [(place + shift, value) for place, value in enumerate(boxes.crosses) if value is not None]
    if crosses:
        axes.plot(*zip(*crosses, strict=True), "x", color=color, alpha=0.6, label=boxes.crosses_label)


def _scales(axes: Any, panel: Panel, lines: Sequence[Series]) -> None:
    """Logarithmic axes, and numbers as people write them, such as 4.2M. If a logarithmic axis
    has values at few places, its numbers are at these."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    short = FuncFormatter(lambda value, _: _short(value))
    for axis, scale, base, values in (
        (axes.xaxis, axes.set_xscale, panel.xlog, {x for series in lines for x in series.x}),
        (axes.yaxis, axes.set_yscale, panel.ylog, {y for series in lines for y in series.y}),
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
            axis.set_major_locator(
                LogLocator(10, subs=(1, 2, 5) if max(values) > _NARROW * min(values) else range(1, 10))
            )
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
