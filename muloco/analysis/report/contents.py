"""What is in a report: a section for each corpus and token budget, and one for the paper's own figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from muloco.analysis.claims.listing import claims_listing
from muloco.analysis.claims.losses import loss_claims
from muloco.analysis.report import law_figures
from muloco.analysis.report.ablations import compression_tables, streaming_tables, sync_interval_tables
from muloco.analysis.report.cells import Listing, Table
from muloco.analysis.report.chart import Figure, Skipped
from muloco.analysis.report.figures import compression, loss_against_batch, loss_curves, worker_scaling
from muloco.analysis.report.laws import (
    critical_batch_table,
    iso_loss_table,
    measured_scalings,
    power_law_table,
    published_scalings,
)
from muloco.analysis.report.pooling import Group, groups, pool
from muloco.analysis.report.runs import Problem, Run
from muloco.analysis.report.tables import batches, choices, final_loss, over_baseline, zero_shot
from muloco.analysis.report.wall_time import wall_clock_figure, wall_clock_table

PAPER = "The paper's own figures"
LEGEND = (
    "A cell is the mean over n seeds ± the sample standard deviation, at the best inner learning rate, batch and other "
    "settings that were tried (see the last table); in brackets what the paper has published for the same scale, "
    "method and K. Runs are pooled only if they differ in nothing but the seed. Corpora are told apart by the names in "
    "the runs' configs, and by the digest of their text."
)


@dataclass(frozen=True)
class Section:
    title: str
    suffix: str
    """Of its figures' files."""
    tables: Sequence[Table | Listing]
    figures: Sequence[Figure]
    skipped: Sequence[Skipped]


@dataclass(frozen=True)
class Report:
    counts: str
    problems: Listing
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
    return Report(_counts(runs, problems), _listing(problems), sections)


def _section(title: str, suffix: str, group: Group, *, paper: bool, drawn: bool) -> Section:
    """Of a group; of the paper, with all that is published and nothing measured."""
    ours, theirs = measured_scalings(group), published_scalings() if drawn else {}
    tables: list[Table | Listing] = [
        final_loss(group, everything=paper),
        over_baseline(group, everything=paper),
        batches(group, everything=paper),
        *sync_interval_tables(group, everything=paper),
        *compression_tables(group, everything=paper),
        *streaming_tables(group, everything=paper),
        zero_shot(group, everything=paper),
        power_law_table(ours, everything=paper),
        critical_batch_table(group, everything=paper),
        iso_loss_table(ours, group, everything=paper),
        wall_clock_table(group, everything=paper),
        _claims(group),
        choices(group),
    ]
    figures = [
        loss_curves(group),
        loss_against_batch(group, published=drawn),
        worker_scaling(group, published=drawn),
        compression(group, published=drawn),
        law_figures.power_laws(ours, theirs, paper=paper),
        law_figures.critical_batches(group, published=drawn),
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


def _claims(group: Group) -> Listing:
    """Of each scale, as far as there are runs to decide them."""
    found = [(scale, claim) for scale in group.scales for claim in loss_claims(group, scale) if claim.parts]
    return claims_listing(found)


def _counts(runs: Sequence[Run], problems: Sequence[Problem]) -> str:
    kinds = [problem.kind for problem in problems if problem.kind != "remark"]
    others = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return f"{len(runs)} finished run{'s' * (len(runs) != 1)}" + (f"; {others}" if others else "")


def _listing(problems: Sequence[Problem]) -> Listing:
    return Listing(
        "problems",
        "Left out, or to be known",
        ["folder", "what", "reason"],
        [[(text, "") for text in (problem.folder, problem.kind, problem.reason)] for problem in problems],
    )
