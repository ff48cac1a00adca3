"""The figures of the paper's section on pseudogradients, from measurements, as PNG and SVG."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from muloco.analysis.chart import Boxes, Figure, Panel, Series
from muloco.analysis.draw import draw as draw_figure
from muloco.analysis.pseudogradients.study import METHOD, MatrixFigures, Study
from muloco.analysis.published import COSINE


def draw(studies: Sequence[Study], folder: Path) -> list[Path]:
    """Writes `cosine`, `spectra`, `gap` and `steps` into a folder, the same bytes for the same studies.

    Returns:
        all paths.
    """
    figures = cosines(studies), spectra(studies), gap(studies), steps(studies)
    return [path for figure in figures for path in draw_figure(figure, folder)]


def cosines(studies: Sequence[Study]) -> Figure:
    """Boxes over the matrices by K, one for each study, with the paper's means as crosses."""
    counts = sorted({workers for study in studies for workers in study.counts if workers > 1})
    series = [
        Boxes(
            label=f"{study.run}: matrices and their mean",
            look=_look(study),
            values=[[figures.cosine for figures in study.of(k)] if k in study.counts else [] for k in counts],
            crosses=[COSINE[study.optimizer].get(k) if k in study.counts else None for k in counts],
            crosses_label=f"{study.optimizer}, 416M (paper)",
        )
        for study in studies
    ]
    panel = Panel(
        title="agreement of the workers",
        xlabel="workers K",
        ylabel="cosine to K = 1's pseudogradient",
        series=series,
        categories=[str(workers) for workers in counts],
    )
    return Figure(name="cosine", title="Cosine", panels=[panel])


def spectra(studies: Sequence[Study]) -> Figure:
    """Spectra of the last layer's w3, as in the paper, at the largest K; one panel per study."""
    panels = []
    for study in studies:
        example = _example(study)
        values = {
            "mean pseudogradient": example.spectrum_of_mean,
            f"a worker's pseudogradient (mean of {example.workers})": example.spectrum_of_workers,
        }
        panels.append(
            Panel(
                title=f"{study.run}\n{example.matrix}, K = {example.workers}",
                xlabel="place, from the largest",
                ylabel="singular value",
                series=[
                    Series(
                        label=f"{study.optimizer}: {label}",
                        look=f"{METHOD[study.optimizer]}, {label}",
                        x=range(1, example.rank + 1),
                        y=spectrum,
                        points=False,
                    )
                    for label, spectrum in values.items()
                ],
                zero=True,
            )
        )
    return Figure(name="spectra", title="Spectra", panels=panels)


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
    return Figure(name="gap", title="Interference gap", panels=[panel])


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
                    x=range(1, len(norms) + 1),
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
    return Figure(name="steps", title="Inner steps", panels=[panel])


def _look(study: Study, workers: int | None = None) -> str:
    return f"{METHOD[study.optimizer]}{f' K={workers}' if workers else ''}, {study.run}"


def _example(study: Study) -> MatrixFigures:
    largest = study.of(study.counts[-1])
    last = [figures for figures in largest if figures.matrix.endswith("feed_forward.w3.weight")] or largest
    return max(last, key=lambda figures: int(figures.matrix.split(".")[1]))
