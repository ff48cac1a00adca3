"""The paper's figures that show what the tables have: curves, batches, workers, sync intervals, compression."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from muloco.analysis.chart import Figure, Panel, Series
from muloco.analysis.records.pooling import Group, Key
from muloco.analysis.report.ablations import FP32, compression_tables, sync_interval_tables
from muloco.analysis.report.tables import batches, over_baseline
from muloco.analysis.report.value_table import SCALES, Value, to_series

LOSS = "held-out loss (nats per token)"
OVER_DP = "loss above its own DP baseline (%)"


def loss_curves(group: Group) -> Figure:
    """Held-out loss against tokens, a panel a scale, of the best run of each method."""
    panels = []
    for scale in group.scales:
        series = []
        for variant in group.variants:
            curve = group.best[scale, variant].point.curve() if (scale, variant) in group.best else []
            curve = [(tokens, loss) for tokens, loss in curve if tokens] or curve
            if curve:
                tokens, losses = zip(*curve, strict=True)
                series.append(Series(label=variant.label, x=tokens, y=losses, points=len(curve) < 30))
        panels.append(Panel(title=scale, xlabel="tokens trained on", ylabel=LOSS, series=series))
    return Figure(
        name="loss_curves",
        title="Loss curves",
        panels=panels,
        caption="Held-out loss of the anchor, without that of the untrained model; of each method the run with the "
        "best end, the mean over its seeds.",
        needs="finished runs with held-out losses in their metrics" if group.points else "numbers that the paper lacks",
    )


def loss_against_batch(group: Group, *, published: bool) -> Figure:
    """A panel a scale, a line a method and K."""
    values = list(batches(group).values(published=published))
    panels = []
    for scale in SCALES:
        series = to_series(
            (value for value in values if value.scale == scale), lambda value: float(value.column.replace(",", ""))
        )
        series = [line for line in series if len(line.x) > 1]
        panels.append(Panel(title=scale, xlabel="batch (tokens per inner step)", ylabel=LOSS, series=series, xlog=2))
    return Figure(
        name="loss_against_batch",
        title="Loss against batch",
        panels=panels,
        caption=f"{_measured(group, published)}, at each batch that of the best inner learning rate.",
        needs="a method with two batch sizes at one scale",
    )


def worker_scaling(group: Group, *, published: bool) -> Figure:
    """% above its own baseline by K, a panel a scale, and by H."""
    by_workers = list(over_baseline(group).values(published=published))
    by_interval = list(sync_interval_tables(group)[1].values(published=published))
    panels = []
    for scale in SCALES:
        series = to_series(
            _along_workers([value for value in by_workers if value.column == scale]),
            lambda value: float(value.variant.workers or 0),
            name=lambda value: replace(value.variant, workers=None).label,
        )
        if any(len(line.x) > 1 for line in series):
            panels.append(Panel(title=scale, xlabel="workers K", ylabel=OVER_DP, series=series, xlog=2))
    for scale in SCALES:
        series = to_series((value for value in by_interval if value.scale == scale), lambda value: float(value.column))
        panels.append(
            Panel(title=f"{scale}, by H", xlabel="sync interval H (inner steps)", ylabel=OVER_DP, series=series, xlog=2)
        )
    return Figure(
        name="worker_scaling",
        title="Worker scaling and sync interval",
        panels=panels,
        caption=f"{_measured(group, published)} over that of the data-parallel run with the same inner optimizer.",
        needs="a method with two K, or two H, and its data-parallel baseline at one scale",
    )


def compression(group: Group, *, published: bool) -> Figure:
    """Loss by bits and by the share kept, with fp32 as a level line."""
    values = list(compression_tables(group)[0].values(published=published))
    panels = []
    for scale in SCALES:
        for unit, xlabel in ((("bit", "bits"), "bits per element"), ("%", "elements kept (%)")):
            sized = [value for value in values if value.scale == scale and value.column.endswith(unit)]
            if sized:
                series = to_series(sized, lambda value: float(value.column.split()[0]))
                levels = _levels(values, {(value.scale, value.variant) for value in sized})
                panels.append(Panel(title=scale, xlabel=xlabel, ylabel=LOSS, series=[*series, *levels], xlog=2))
    return Figure(
        name="compression",
        title="Compression",
        panels=panels,
        caption=f"{_measured(group, published)} by what is sent of an element of the pseudogradient; "
        "level lines: fp32.",
        needs="runs with compressed pseudogradients" + ", of a size in bits or %" * bool(values),
    )


def _measured(group: Group, published: bool) -> str:
    """The losses on the y axis: beside the paper's points the workers' own ones, as in the paper."""
    if published and group.has_own_losses:
        return "Final held-out loss of the workers' own weights before the last sync, where it was logged,"
    return "Final held-out loss"


def _along_workers(values: Sequence[Value]) -> list[Value]:
    """The plain methods, and variants that are there with several K."""

    def line(value: Value) -> tuple[str, str, bool]:
        return value.variant.method, value.variant.rest, value.published

    counts = Counter(map(line, values))
    return [value for value in values if value.variant.rest == "" or counts[line(value)] > 1]


def _levels(values: Iterable[Value], rows: set[Key]) -> list[Series]:
    """fp32 as a level line, one for each method and K that these rows have."""
    levels = {
        (f"{value.variant.name}, fp32", value.published): value.number
        for value in values
        if value.column == FP32 and (value.scale, value.variant) in rows
    }
    return [
        Series(label=name, x=[], y=[value], published=published, horizontal=True)
        for (name, published), value in levels.items()
    ]
