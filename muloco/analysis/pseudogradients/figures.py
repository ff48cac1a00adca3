"""The figures of PAPER 5.10 from what was measured, as PNG and SVG."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from muloco.analysis.canvas import settings, subplots
from muloco.analysis.pseudogradients.study import Spectrum, Study
from muloco.analysis.published import COSINE

_COLORS = ("#0b6e4f", "#c8553d", "#2f5d9b", "#e0a100", "#7d4ea3", "#444444")


def draw(studies: Sequence[Study], folder: Path) -> list[Path]:
    """Writes `cosine`, `spectra`, `gap` and `steps` into a folder, the same bytes for the same studies.

    Returns:
        all paths.
    """
    paths = []
    plots: dict[str, tuple[int, Callable[[Any, Sequence[Study]], None]]] = {
        "cosine": (1, _cosine),
        "spectra": (len(studies), _spectra),
        "gap": (1, _gap),
        "steps": (1, _steps),
    }
    for name, (panels, plot) in plots.items():
        with settings({"svg.hashsalt": name, "font.size": 9}):
            width = 4.6 * panels + 0.8
            figure, axes = subplots(1, panels, figsize=(width, 3.6), squeeze=False, dpi=130, layout="constrained")
            plot(axes[0], studies)
            for panel in axes[0]:
                panel.grid(alpha=0.25)
                panel.legend(frameon=False, fontsize=7)
            paths += [folder / f"{name}.png", folder / f"{name}.svg"]
            figure.savefig(paths[-2], metadata={"Software": None})
            figure.savefig(paths[-1], metadata={"Date": None})
    return paths


def _cosine(axes: Any, studies: Sequence[Study]) -> None:
    """Boxes over the matrices, the paper's means as crosses."""
    counts = sorted({workers for study in studies for workers in study.counts if workers > 1})
    width = 0.7 / len(studies)
    for place, study in enumerate(studies):
        color, shift = _color(place), (place - (len(studies) - 1) / 2) * width
        shown = [workers for workers in study.counts if workers > 1]
        boxes = axes[0].boxplot(
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
        axes[0].plot([], [], color=color, linewidth=6, alpha=0.6, label=study.run)
        published = [
            (counts.index(k) + shift, COSINE[study.optimizer][k]) for k in shown if k in COSINE[study.optimizer]
        ]
        if published:
            label = f"{study.optimizer}, 416M (paper)"
            axes[0].plot(*zip(*published, strict=True), "x", color=color, alpha=0.5, label=label)
    axes[0].set(xlabel="workers K", ylabel="cosine to the pseudogradient of K = 1")
    axes[0].set_xticks(range(len(counts)), [str(workers) for workers in counts])


def _spectra(axes: Any, studies: Sequence[Study]) -> None:
    """Of the last layer's w3, as in the paper, at the largest K."""
    for place, (panel, study) in enumerate(zip(axes, studies, strict=True)):
        spectrum = _example(study)
        places = range(1, len(spectrum.own) + 1)
        color = _color(place)
        panel.plot(places, spectrum.own, "--", color=color, label=f"a worker (mean of {spectrum.workers})")
        panel.plot(places, spectrum.of_mean, "-", color=color, label="mean pseudogradient")
        panel.set(title=f"{study.run}\n{spectrum.matrix}, K = {spectrum.workers}", xlabel="place", ylim=(0, None))
    axes[0].set_ylabel("singular value")


def _color(place: int) -> str:
    """Of a study, the same in all figures."""
    return _COLORS[place % len(_COLORS)]


def _example(study: Study) -> Spectrum:
    last = [s for s in study.spectra if s.workers == study.counts[-1] and s.matrix.endswith("feed_forward.w3.weight")]
    return max(last, key=lambda spectrum: int(spectrum.matrix.split(".")[1]))


def _gap(axes: Any, studies: Sequence[Study]) -> None:
    for place, study in enumerate(studies):
        gaps = [100 * fmean(figures.gap for figures in study.of(workers)) for workers in study.counts]
        axes[0].plot(study.counts, gaps, "o-", color=_color(place), markersize=4, label=study.run)
    counts = sorted({workers for study in studies for workers in study.counts})
    axes[0].set(xlabel="workers K", ylabel="interference gap, % of the workers' top", xscale="log")
    axes[0].set_xticks(counts, [str(workers) for workers in counts])
    axes[0].minorticks_off()


def _steps(axes: Any, studies: Sequence[Study]) -> None:
    """The norms of inner steps, at the smallest and the largest K."""
    for place, study in enumerate(studies):
        for workers, line in {study.counts[0]: "-", study.counts[-1]: "--"}.items():
            norms = study.norms(workers)
            label = f"{study.run}, K = {workers}"
            axes[0].plot(range(1, len(norms) + 1), norms, line, color=_color(place), label=label)
    axes[0].set(xlabel="inner step", ylabel="|psi| / sqrt(r)", ylim=(0, None))
