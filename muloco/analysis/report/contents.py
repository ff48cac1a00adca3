"""The contents of a report: a section for each corpus and token budget, and one for the paper's own figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from muloco.analysis.chart import Figure, Skipped
from muloco.analysis.claims.evidence import claims_table
from muloco.analysis.claims.losses import loss_claims
from muloco.analysis.records.pooling import Group, groups, pool
from muloco.analysis.records.runs import Problem, Run
from muloco.analysis.report import law_figures
from muloco.analysis.report.ablations import compression_tables, streaming_tables, sync_interval_tables
from muloco.analysis.report.figures import compression, loss_against_batch, loss_curves, worker_scaling
from muloco.analysis.report.laws import (
    critical_batch_table,
    iso_loss_table,
    measured_scalings,
    power_law_table,
    published_scalings,
)
from muloco.analysis.report.tables import batches, choices, final_loss, over_baseline, zero_shot
from muloco.analysis.report.wall_time import wall_clock_figure, wall_clock_table
from muloco.analysis.table import OWN, Table, TextTable

PAPER = "The paper's own figures"
LEGEND = (
    "A cell is the mean over n seeds ± the sample standard deviation, at the best inner learning rate, batch and other "
    "settings that were tried (see the last table); in brackets what the paper has published for the same scale, "
    "method and K. Losses are those of the anchor; columns headed "
    f"`{OWN}` have the mean of the losses of the workers' own weights just before the last sync, which is what the "
    "paper publishes, and figures with the paper's points show these where they were logged. Runs are pooled only if "
    "they differ in nothing but the seed. Corpora are told apart by the names in the runs' configs, and by the digest "
    "of their text."
)


@dataclass(frozen=True)
class Section:
    title: str
    suffix: str
    """Suffix of the names of its figures' files."""
    tables: Sequence[Table | TextTable]
    figures: Sequence[Figure]
    skipped: Sequence[Skipped]


@dataclass(frozen=True)
class Report:
    counts: str
    problems: TextTable
    sections: Sequence[Section]


def build(runs: Sequence[Run], problems: Sequence[Problem], *, published: bool) -> Report:
    """The whole report.

    Args:
        runs: finished ones.
        problems: of reading folders.
        published: draw the paper's points as well, and add a section with the paper's own tables and figures.
    """
    points, repeated = pool(runs)
    problems = [*problems, *repeated]
    found = groups(points)
    sections = [
        _section(group.title, "" if len(found) == 1 else f"-{number}", group, paper=False, drawn=published)
        for number, group in enumerate(found, start=1)
    ]
    if published:
        sections.append(_section(PAPER, "-paper", Group(PAPER, ()), paper=True, drawn=True))
    return Report(_counts(runs, problems), _problem_table(problems), sections)


def _section(title: str, suffix: str, group: Group, *, paper: bool, drawn: bool) -> Section:
    """The figures of a group; for the paper's group, with all published values and no measured ones. Where the paper's
    points are drawn, ours are of the workers' own losses, as far as these were logged."""
    tables: list[Table | TextTable] = [
        *_tables_of_losses(group, paper=paper),
        zero_shot(group, everything=paper),
        wall_clock_table(group, everything=paper),
        _claims(group, own=False),
        *([_claims(group.as_published(only=True), own=True)] if group.has_own_losses else []),
        choices(group),
    ]
    shown, theirs = (group.as_published(), published_scalings()) if drawn else (group, {})
    ours = measured_scalings(shown)
    figures = [
        loss_curves(group),
        loss_against_batch(shown, published=drawn),
        worker_scaling(shown, published=drawn),
        compression(shown, published=drawn),
        law_figures.power_laws(ours, theirs, paper=paper),
        law_figures.critical_batches(shown, published=drawn),
        law_figures.iso_loss_ratios(ours, theirs, paper=paper),
        wall_clock_figure(group, published_too=drawn),
    ]
    skipped = [figure for figure in figures if isinstance(figure, Skipped)]
    if not paper:
        skipped += [Skipped(table.name, table.needs) for table in tables if not table.rows and table.needs]
    by_need: dict[str, dict[str, None]] = {}
    for one in skipped:
        by_need.setdefault(one.needs, {})[one.name] = None
    return Section(
        title=title,
        suffix=suffix,
        tables=[table for table in tables if table.rows],
        figures=[figure for figure in figures if isinstance(figure, Figure)],
        skipped=[Skipped(", ".join(names), needs) for needs, names in by_need.items()],
    )


def _tables_of_losses(group: Group, *, paper: bool) -> list[Table]:
    """The tables of the anchor's losses, with those of the workers' own losses where these were logged."""

    def of(these: Group) -> list[Table]:
        scalings = measured_scalings(these)
        return [
            final_loss(these, everything=paper),
            over_baseline(these, everything=paper),
            batches(these, everything=paper),
            *sync_interval_tables(these, everything=paper),
            *compression_tables(these, everything=paper),
            *streaming_tables(these, everything=paper),
            power_law_table(scalings, everything=paper),
            critical_batch_table(these, everything=paper),
            iso_loss_table(scalings, these, everything=paper),
        ]

    tables = of(group)
    if not group.has_own_losses:
        return tables
    return [table.with_own(own) for table, own in zip(tables, of(group.as_published(only=True)), strict=True)]


def _claims(group: Group, *, own: bool) -> TextTable:
    """Returns the claims at each scale for which there are runs to decide them."""
    found = [(scale, claim) for scale in group.scales for claim in loss_claims(group, scale) if claim.parts]
    return claims_table(found, own=own)


def _counts(runs: Sequence[Run], problems: Sequence[Problem]) -> str:
    kinds = [problem.kind for problem in problems if problem.kind != "remark"]
    others = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return f"{len(runs)} finished run{'s' * (len(runs) != 1)}" + (f"; {others}" if others else "")


def _problem_table(problems: Sequence[Problem]) -> TextTable:
    return TextTable(
        "problems",
        "Excluded runs and remarks",
        ["folder", "what", "reason"],
        [[problem.folder, problem.kind, problem.reason] for problem in problems],
    )
