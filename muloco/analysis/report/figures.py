"""The paper's figures that show what the tables have: curves, batches, workers, sync intervals, compression."""

from collections import Counter
from collections.abc import Iterable, Sequence

from muloco.analysis.chart import Figure, Panel, Series, Skipped, assemble
from muloco.analysis.records.pooling import Group
from muloco.analysis.report.ablations import FP32, compression_tables, sync_interval_tables
from muloco.analysis.report.tables import SCALES, batches, best_by_variant, over_baseline
from muloco.analysis.report.values import Value, label, to_series, values
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
    found = list(values(batches(group, everything=published), published=published))
    panels = []
    for scale in SCALES:
        series = to_series(
            (value for value in found if value.row[0] == scale), lambda value: float(value.column.replace(",", ""))
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
    by_workers = list(values(over_baseline(group, everything=published), published=published))
    by_interval = list(values(sync_interval_tables(group, everything=published)[1], published=published))
    panels = []
    for scale in SCALES:
        series = to_series(
            _along_workers([value for value in by_workers if value.column == scale]),
            lambda value: float(value.row[2]),
            name=lambda value: label((*value.row[:2], "", value.row[3])),
        )
        if any(len(line.x) > 1 for line in series):
            panels.append(Panel(title=scale, xlabel="workers K", ylabel=OVER_DP, series=series, xlog=2))
    for scale in SCALES:
        series = to_series((value for value in by_interval if value.row[0] == scale), lambda value: float(value.column))
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
    found = list(values(compression_tables(group, everything=published)[0], published=published))
    panels = []
    for scale in SCALES:
        for unit, xlabel in ((("bit", "bits"), "bits per element"), ("%", "elements kept (%)")):
            sized = [value for value in found if value.row[0] == scale and value.column.endswith(unit)]
            if sized:
                series = to_series(sized, lambda value: float(value.column.split()[0]))
                levels = _levels(found, {value.row for value in sized})
                panels.append(Panel(title=scale, xlabel=xlabel, ylabel=LOSS, series=[*series, *levels], xlog=2))
    return assemble(
        "compression",
        "Compression",
        panels,
        caption=f"{_measured(group, published)} by what is sent of an element of the pseudogradient; "
        "level lines: fp32.",
        needs="runs with compressed pseudogradients" + ", of a size in bits or %" * bool(found),
        paper=not group.points,
    )


def _measured(group: Group, published: bool) -> str:
    """What is on the y axis: beside the paper's points these are the workers' own losses, as in the paper."""
    if published and group.has_own_losses:
        return "Final held-out loss of the workers' own weights before the last sync, where it was logged,"
    return "Final held-out loss"


def _along_workers(found: Sequence[Value]) -> list[Value]:
    """The plain methods, and variants that are there with several K."""

    def line(value: Value) -> tuple[str, str, bool]:
        return value.row[1], value.row[3], value.published

    counts = Counter(line(value) for value in found)
    return [value for value in found if value.row[3] == "" or counts[line(value)] > 1]


def _levels(found: Iterable[Value], rows: set[Row]) -> list[Series]:
    """fp32 as a level line, one for each method and K that these rows have."""
    levels = {
        (f"{label((*value.row[:3], ''))}, fp32", value.published): value.number
        for value in found
        if value.column == FP32 and value.row in rows
    }
    return [
        Series(label=name, x=[], y=[value], published=published, horizontal=True)
        for (name, published), value in levels.items()
    ]
