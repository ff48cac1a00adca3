"""The paper's figures that show what the tables have: curves, batches, workers, sync intervals, compression."""

from collections import Counter
from collections.abc import Iterable, Sequence

from muloco.analysis.chart import Figure, Panel, Series, Skipped, assemble
from muloco.analysis.records.pooling import Group
from muloco.analysis.report.ablations import FP32, compression_tables, sync_interval_tables
from muloco.analysis.report.marks import Mark, label, lines, marks
from muloco.analysis.report.tables import SCALES, batches, best_by_variant, over_baseline
from muloco.analysis.table import Row

LOSS = "held-out loss (nats per token)"
OVER_DP = "loss above its own DP baseline (%)"


def loss_curves(group: Group) -> Figure | Skipped:
    """Held-out loss against tokens, a panel a scale, of the best run of each method."""
    found = best_by_variant(group)
    panels = []
    for scale in group.scales:
        series = []
        for variant in group.variants:
            curve = found[scale, variant].point.curve() if (scale, variant) in found else []
            curve = [(tokens, loss) for tokens, loss in curve if tokens] or curve
            if curve:
                tokens, losses = zip(*curve, strict=True)
                series.append(Series(label=variant.label, x=tokens, y=losses, points=len(curve) < 30))
        panels.append(Panel(title=scale, xlabel="tokens trained on", ylabel=LOSS, series=series))
    return assemble(
        "loss_curves",
        "Loss curves",
        panels,
        caption="Held-out loss of the anchor, without that of the untrained model; of each method the run with the "
        "best end, the mean over its seeds.",
        needs="finished runs with held-out losses in their metrics" if group.points else "numbers that the paper lacks",
        paper=not group.points,
    )


def loss_against_batch(group: Group, *, published: bool) -> Figure | Skipped:
    """A panel a scale, a line a method and K."""
    found = list(marks(batches(group, everything=published), published=published))
    panels = []
    for scale in SCALES:
        series = lines(
            (mark for mark in found if mark.row[0] == scale), lambda mark: float(mark.column.replace(",", ""))
        )
        series = [line for line in series if len(line.x) > 1]
        panels.append(Panel(title=scale, xlabel="batch (tokens per inner step)", ylabel=LOSS, series=series, xlog=2))
    return assemble(
        "loss_against_batch",
        "Loss against batch",
        panels,
        caption=f"{_measured(group, published)}, at each batch that of the best inner learning rate.",
        needs="a method with two batch sizes at one scale",
        paper=not group.points,
    )


def worker_scaling(group: Group, *, published: bool) -> Figure | Skipped:
    """% above its own baseline by K, a panel a scale, and by H."""
    by_workers = list(marks(over_baseline(group, everything=published), published=published))
    by_interval = list(marks(sync_interval_tables(group, everything=published)[1], published=published))
    panels = []
    for scale in SCALES:
        series = lines(
            _along_workers([mark for mark in by_workers if mark.column == scale]),
            lambda mark: float(mark.row[2]),
            name=lambda mark: label((*mark.row[:2], "", mark.row[3])),
        )
        if any(len(line.x) > 1 for line in series):
            panels.append(Panel(title=scale, xlabel="workers K", ylabel=OVER_DP, series=series, xlog=2))
    for scale in SCALES:
        series = lines((mark for mark in by_interval if mark.row[0] == scale), lambda mark: float(mark.column))
        panels.append(
            Panel(title=f"{scale}, by H", xlabel="sync interval H (inner steps)", ylabel=OVER_DP, series=series, xlog=2)
        )
    return assemble(
        "worker_scaling",
        "Worker scaling and sync interval",
        panels,
        caption=f"{_measured(group, published)} over that of the data-parallel run with the same inner optimizer.",
        needs="a method with two K, or two H, and its data-parallel baseline at one scale",
        paper=not group.points,
    )


def compression(group: Group, *, published: bool) -> Figure | Skipped:
    """Loss by bits and by the share kept, with fp32 as a level line."""
    found = list(marks(compression_tables(group, everything=published)[0], published=published))
    panels = []
    for scale in SCALES:
        for unit, xlabel in (("bits", "bits per element"), ("%", "elements kept (%)")):
            sized = [mark for mark in found if mark.row[0] == scale and mark.column.endswith(unit)]
            if sized:
                series = lines(sized, lambda mark: float(mark.column.split()[0]))
                levels = _levels(found, {mark.row for mark in sized})
                panels.append(Panel(title=scale, xlabel=xlabel, ylabel=LOSS, series=[*series, *levels], xlog=2))
    return assemble(
        "compression",
        "Compression",
        panels,
        caption=f"{_measured(group, published)} by what is sent of an element of the pseudogradient; "
        "level lines: fp32.",
        needs="runs with compressed pseudogradients",
        paper=not group.points,
    )


def _measured(group: Group, published: bool) -> str:
    """What is on the y axis: beside the paper's points these are the workers' own losses, as in the paper."""
    if published and group.has_own_losses:
        return "Final held-out loss of the workers' own weights before the last sync, where it was logged,"
    return "Final held-out loss"


def _along_workers(found: Sequence[Mark]) -> list[Mark]:
    """The plain methods, and variants that are there with several K."""

    def line(mark: Mark) -> tuple[str, str, bool]:
        return mark.row[1], mark.row[3], mark.published

    counts = Counter(line(mark) for mark in found)
    return [mark for mark in found if mark.row[3] == "" or counts[line(mark)] > 1]


def _levels(found: Iterable[Mark], rows: set[Row]) -> list[Series]:
    """fp32 as a level line, one for each method and K that these rows have."""
    levels = {
        (f"{label((*mark.row[:3], ''))}, fp32", mark.published): mark.value
        for mark in found
        if mark.column == FP32 and mark.row in rows
    }
    return [
        Series(label=name, x=[], y=[value], published=published, horizontal=True)
        for (name, published), value in levels.items()
    ]
