"""The contents of a report: a section for each corpus and token budget, and one for the paper's own figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from muloco.analysis.chart import Figure
from muloco.analysis.claims.evidence import claims_table
from muloco.analysis.claims.losses import loss_claims
from muloco.analysis.records.pooling import Group, groups, pool
from muloco.analysis.records.runs import Problem, Run
from muloco.analysis.report import ablations, figures, laws, tables, wall_time
from muloco.analysis.report.value_table import Table
from muloco.analysis.table import OWN, TextTable

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
    tables: Sequence[Table | TextTable]
    figures: Sequence[Figure]
    missing: Mapping[str, str]
    """Names of the figures and tables that are not there, by the runs that they take."""


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
    pooled = groups(points)
    sections = [
        _section(group, "" if len(pooled) == 1 else f"-{number}", drawn=published)
        for number, group in enumerate(pooled, start=1)
    ]
    if published:
        sections.append(_section(Group(PAPER, ()), "-paper", drawn=True))
    return Report(_counts(runs, problems), _problem_table(problems), sections)


def _section(group: Group, suffix: str, *, drawn: bool) -> Section:
    """The figures of a group; of a group without points, all published values. Where the paper's points are drawn, ours
    are of the workers' own losses, as far as these were logged.

    Args:
        group: of one corpus and token budget.
        suffix: of the names of the figures' files.
        drawn: whether the paper's points are drawn.
    """
    paper = not group.points
    losses, claims = _tables_of_losses(group), [_claims(group, own=False)]
    if group.has_own_losses:
        own = group.as_published(only=True)
        pairs = zip(losses, _tables_of_losses(own), strict=True)
        losses = [replace(table, own=of_own.measured) for table, of_own in pairs]
        claims.append(_claims(own, own=True))
    values = [*losses, tables.zero_shot(group), wall_time.wall_clock_table(group)]
    values = [replace(table, everything=paper) for table in values]
    printed: list[Table | TextTable] = [*values, *claims, tables.choices(group)]
    shown, theirs = (group.as_published(), laws.published_scalings()) if drawn else (group, {})
    ours = laws.measured_scalings(shown)
    charts = [
        figures.loss_curves(group),
        figures.loss_against_batch(shown, published=drawn),
        figures.worker_scaling(shown, published=drawn),
        figures.compression(shown, published=drawn),
        laws.power_law_figure(ours, theirs),
        laws.critical_batch_figure(shown, published_too=drawn),
        laws.iso_loss_figure(ours, theirs),
        wall_time.wall_clock_figure(group, published_too=drawn),
    ]
    charts = [chart.with_data(published=paper) for chart in charts]
    needed = [(chart.needs, chart.name) for chart in charts if not chart.panels]
    if not paper:
        needed += [(table.needs, table.name) for table in values if table.needs and not table.rows]
    missing: dict[str, dict[str, None]] = {}
    for needs, name in needed:
        missing.setdefault(needs, {})[name] = None
    return Section(
        title=group.title,
        tables=[table for table in printed if table.rows],
        figures=[replace(chart, name=chart.name + suffix) for chart in charts if chart.panels],
        missing={needs: ", ".join(names) for needs, names in missing.items()},
    )


def _tables_of_losses(group: Group) -> list[Table]:
    scalings = laws.measured_scalings(group)
    return [
        tables.final_loss(group),
        tables.over_baseline(group),
        tables.batches(group),
        *ablations.sync_interval_tables(group),
        *ablations.compression_tables(group),
        *ablations.streaming_tables(group),
        laws.power_law_table(scalings),
        laws.critical_batch_table(group),
        laws.iso_loss_table(scalings, group),
    ]


def _claims(group: Group, *, own: bool) -> TextTable:
    """Returns the claims at each scale for which there are runs to decide them."""
    claims = [(scale, claim) for scale in group.scales for claim in loss_claims(group, scale) if claim.parts]
    return claims_table(claims, own=own)


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
