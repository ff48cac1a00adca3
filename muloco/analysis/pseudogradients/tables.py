"""The results of studies as tables: on the console, in Markdown and as CSV."""

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from rich.table import Table

from muloco.analysis.pseudogradients.study import METHOD, Study
from muloco.analysis.published import COSINE, INTERFERENCE_GAP
from muloco.analysis.table import TextTable, markdown_lines, to_csv
from muloco.analysis.terminal import Column, fitted

TABLE = "table.md"
"""The file of `markdown`. It is written last: a folder that holds it is complete."""


def text_tables(studies: Sequence[Study]) -> list[TextTable]:
    """How the workers agree, and what their steps are like: a row for each checkpoint and K."""
    rows = [(study, workers) for study in studies for workers in study.counts]
    return [
        TextTable(
            "agreement",
            f"Pseudogradients of K workers after {studies[0].steps} inner steps",
            ("checkpoint", "K", "cosine", "quartiles", "paper", "gap %", "paper", "top 5 %", "of the mean"),
            [[study.run, str(workers), *_agreement(study, workers)] for study, workers in rows],
            notes=[
                "Means over the matrices of the layers. cosine: of the mean pseudogradient of K workers to the one "
                "of K = 1. top 5 %: mean of a worker's largest singular values, and behind it that of the mean "
                "pseudogradient; gap: the interference gap, by how many % the latter is smaller. paper: 416M on "
                "other data, and its definition of the gap was not published: orders and trends can "
                "be compared, figures cannot."
            ],
        ),
        TextTable(
            "steps",
            "Inner steps and Proposition 4.2",
            ("checkpoint", "K", "|psi|/sqrt(r)", "least", "greatest", "rho", "decay %", "error", "Muon's form"),
            [[study.run, str(workers), *_steps(study, workers)] for study, workers in rows],
            notes=[
                "Over matrices, workers and steps. |psi|/sqrt(r): Frobenius norm of a step without its learning "
                "rate, 1 where it is orthonormal. rho: its cosine to the orthonormal factor of the mean "
                "pseudogradient. decay: weight decay's part of the nuclear norm. error: how far the two sides of "
                "the proposition are apart (relative; the worst matrix). Muon's form: r / K sum rho alpha over "
                "sqrt(r) / K sum rho alpha |psi|."
            ],
        ),
    ]


def _agreement(study: Study, workers: int) -> list[str]:
    matrices = study.of(workers)
    cosines = [figures.cosine for figures in matrices]
    lower, upper = np.quantile(cosines, (0.25, 0.75))
    return [
        f"{fmean(cosines):.3f}",
        f"{lower:.3f}-{upper:.3f}",
        _published(COSINE[study.optimizer], workers),
        f"{100 * fmean(figures.gap for figures in matrices):.1f}",
        _published(INTERFERENCE_GAP[METHOD[study.optimizer]], workers),
        f"{fmean(figures.top_of_workers for figures in matrices):.3g}",
        f"{fmean(figures.top_of_mean for figures in matrices):.3g}",
    ]


def _steps(study: Study, workers: int) -> list[str]:
    matrices = study.of(workers)
    by_steps = sum(figures.from_steps for figures in matrices)
    return [
        f"{fmean(figures.mean_norm for figures in matrices):.3f}",
        f"{min(figures.least_norm for figures in matrices):.3f}",
        f"{max(figures.greatest_norm for figures in matrices):.3f}",
        f"{fmean(figures.mean_rho for figures in matrices):.3f}",
        f"{100 * sum(figures.from_decay for figures in matrices) / sum(f.nuclear_norm for f in matrices):.3f}",
        f"{max(figures.error for figures in matrices):.0e}",
        f"{sum(figures.if_orthonormal for figures in matrices) / by_steps:.3f}",
    ]


def _published(values: dict[int, float], workers: int) -> str:
    return f"{values[workers]:g}" if workers in values else "-"


def console_tables(table: TextTable, *, width: int) -> list[Table]:
    """Tables for a terminal of that width; each row is named by its checkpoint and K."""
    checkpoint, workers, *headers = table.headers
    names = Column(f"{checkpoint}, {workers}", [f"{row[0]}, K = {row[1]}" for row in table.rows])
    columns = [Column(header, [row[place] for row in table.rows]) for place, header in enumerate(headers, start=2)]
    return fitted(table.title, names, columns, width=width)


def markdown(studies: Sequence[Study]) -> str:
    """All tables with their notes."""
    return "\n".join(line for table in text_tables(studies) for line in markdown_lines(table, level=2))


def tables(studies: Sequence[Study]) -> dict[str, str]:
    """CSV by name of file: `matrices` a line a checkpoint, K and matrix; `spectra` a line a singular value."""
    matrices, spectra = [], []
    for study in studies:
        for figures in study.matrices:
            values = {"checkpoint": study.run, **vars(figures)}
            pairs = zip(values.pop("spectrum_of_workers"), values.pop("spectrum_of_mean"), strict=True)
            matrices.append(values)
            spectra += [
                {
                    "checkpoint": study.run,
                    "workers": figures.workers,
                    "matrix": figures.matrix,
                    "place": place,
                    "mean_over_workers": own,
                    "of_mean": of_mean,
                }
                for place, (own, of_mean) in enumerate(pairs, start=1)
            ]
    return {"matrices.csv": to_csv(matrices), "spectra.csv": to_csv(spectra)}
