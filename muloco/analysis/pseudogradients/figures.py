"""The figures of the paper's section on pseudogradients, from measurements, as PNG and SVG."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from muloco.analysis.canvas import canvas, save
from muloco.analysis.palette import looks
from muloco.analysis.pseudogradients.study import Spectrum, Study
from muloco.analysis.published import COSINE
from muloco.analysis.report.chart import Figure, Panel, Series
from muloco.analysis.report.draw import draw as draw_figure

METHOD = {"Muon": "MuLoCo", "AdamW": "DiLoCo"}
"""The method, and so the color, of workers with an inner optimizer."""


def draw(studies: Sequence[Study], folder: Path) -> list[Path]:
    """Writes `cosine`, `spectra`, `gap` and `steps` into a folder, the same bytes for the same studies.

    Returns:
        all paths.
    """
    paths = _draw_cosines(studies, folder)
    for figure in (spectra(studies), gap(studies), steps(studies)):
        paths += draw_figure(figure, folder)
    return paths


def spectra(studies: Sequence[Study]) -> Figure:
    """Spectra of the last layer's w3, as in the paper, at the largest K; one panel per study."""
    panels = []
    for study in studies:
        spectrum = _example(study)
        places = [float(place) for place in range(1, len(spectrum.own) + 1)]
        one, of_mean = f"a worker's pseudogradient (mean of {spectrum.workers})", "mean pseudogradient"
        panels.append(
            Panel(
                title=f"{study.run}\n{spectrum.matrix}, K = {spectrum.workers}",
                xlabel="place, from the largest",
                ylabel="singular value",
                series=[
                    Series(
                        label=f"{study.optimizer}: {label}",
                        look=f"{METHOD[study.optimizer]}, {label}",
                        x=places,
                        y=values,
                        points=False,
                    )
                    for label, values in ((of_mean, spectrum.of_mean), (one, spectrum.own))
                ],
                zero=True,
            )
        )
    return Figure(name="spectra", title="Spectra", panels=panels, caption="")


def gap(studies: Sequence[Study]) -> Figure:
    """Interference gap by K, as means over the matrices; one line per study."""
    series = [
        Series(
            label=study.run,
            look=_look(study),
            x=study.counts,
            y=[100 * fmean(figures.gap for figures in study.of(workers)) for workers in study.counts],
        )
        for study in studies
    ]
    ylabel = "interference gap (% of the workers' top)"
    panel = Panel(title="interference gap", xlabel="workers K", ylabel=ylabel, series=series, xlog=2)
    return Figure(name="gap", title="Interference gap", panels=[panel], caption="")


def steps(studies: Sequence[Study]) -> Figure:
    """The norms of inner steps for the smallest and the largest K."""
    series = []
    for study in studies:
        for workers in dict.fromkeys((study.counts[0], study.counts[-1])):
            norms = study.norms(workers)
            series.append(
                Series(
                    label=f"{study.run}, K={workers}",
                    look=_look(study, workers),
                    x=[float(step) for step in range(1, len(norms) + 1)],
                    y=norms,
                    points=False,
                )
            )
    panel = Panel(
        title="inner steps without their learning rate (1: orthonormal)",
        xlabel="inner step",
        ylabel="Frobenius norm / sqrt(rank)",
        series=series,
        zero=True,
    )
    return Figure(name="steps", title="Inner steps", panels=[panel], caption="")


def _look(study: Study, workers: int | None = None) -> str:
    return f"{METHOD[study.optimizer]}{f' K={workers}' if workers else ''}, {study.run}"


def _example(study: Study) -> Spectrum:
    largest = [s for s in study.spectra if s.workers == study.counts[-1]]
    last = [s for s in largest if s.matrix.endswith("feed_forward.w3.weight")] or largest
    return max(last, key=lambda spectrum: int(spectrum.matrix.split(".")[1]))


def _draw_cosines(studies: Sequence[Study], folder: Path) -> list[Path]:
    """Boxes over the matrices, the paper's means as crosses."""
    paths = [folder / "cosine.png", folder / "cosine.svg"]
    with canvas(1, 1, width=5.4, height=3.5 + 0.34 * len(studies), name="cosine") as (sheet, ((axes,),)):
        _cosines(axes, studies)
        axes.grid(alpha=0.25)
        sheet.legend(loc="outside lower center", frameon=False, fontsize=7)
        save(sheet, *paths)
    return paths


def _cosines(axes: Any, studies: Sequence[Study]) -> None:
    counts = sorted({workers for study in studies for workers in study.counts if workers > 1})
    width = 0.7 / len(studies)
    styles = looks(map(_look, studies))
    for place, study in enumerate(studies):
        color, shift = styles[_look(study)].color, (place - (len(studies) - 1) / 2) * width
        shown = [workers for workers in study.counts if workers > 1]
        boxes = axes.boxplot(
            [[figures.cosine for figures in study.of(workers)] for workers in shown],
            positions=[counts.index(workers) + shift for workers in shown],
            widths=0.8 * width,
            patch_artist=True,
            showmeans=True,
            meanprops={"marker": ".", "markerfacecolor": "black", "markeredgecolor": "black"},
            medianprops={"color": "black"},
        )
        for patch in boxes["boxes"]:
            patch.set(facecolor=color, alpha=0.6)
        axes.plot([], [], color=color, linewidth=6, alpha=0.6, label=f"{study.run}: matrices and their mean")
        published = [
            (counts.index(k) + shift, COSINE[study.optimizer][k]) for k in shown if k in COSINE[study.optimizer]
        ]
        if published:
            label = f"{study.optimizer}, 416M (paper)"
            axes.plot(*zip(*published, strict=True), "x", color=color, alpha=0.6, label=label)
    axes.set(title="agreement of the workers", xlabel="workers K", ylabel="cosine to K = 1's pseudogradient")
    axes.set_xticks(range(len(counts)), [str(workers) for workers in counts])
