"""Tables along one setting, all else equal: H, bits or fraction, fragments."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

from muloco.analysis import published
from muloco.analysis.records.method import UNFRAGMENTED, CodecLabel, Variant
from muloco.analysis.records.pooling import Group, Key, Measured, Point, best_at_common_batches
from muloco.analysis.report.tables import compared, own_baseline
from muloco.analysis.report.value_table import Cell, Table

FP32 = "fp32"
ONE_SIZE = "one size"
"""Column of the codecs that say no size."""
_PAPER_SCALE, _PAPER_WORKERS = "416M", 8
_SAME_BATCH = "At the batches that all of a row have in common, if there are any."


def sync_interval_tables(group: Group) -> list[Table]:
    """Loss by H, and % above the data-parallel baseline, for each method and K that was run with several H."""
    loss = Table(
        name="sync_interval",
        title="Final held-out loss by sync interval H",
        across="H",
        column_order=int,
        measured=_along(
            group,
            row=lambda _, variant: [variant.without("sync_steps")] if variant.workers is not None else [],
            column=lambda variant: str(variant.sync_steps),
        ),
        notes=[_SAME_BATCH],
        needs="a method with two sync intervals at one scale and K",
    )
    over_dp = Table(
        name="sync_interval_over_dp",
        title="% above its own data-parallel baseline by sync interval H",
        across="H",
        column_order=int,
        **compared(loss.measured, lambda cell: own_baseline(group, *cell[0])),
        published={
            (_paper_row(method), str(interval)): value
            for method, by_interval in published.SYNC_INTERVAL_OVER_DP.items()
            for interval, value in by_interval.items()
        },
        form="+.2f",
        notes=[_SAME_BATCH, "The paper does not say its K; its figures fit K = 8 and stand there."],
    )
    return [loss, over_dp]


def compression_tables(group: Group) -> list[Table]:
    """Loss by bits or fraction, and % over fp32, for each method, K and codec, with fp32 where it was run."""
    families: dict[Key, set[CodecLabel]] = defaultdict(set)
    for point in group.points:
        if point.variant.codec:
            families[point.scale, point.variant.without("codec")].add(point.variant.codec.family)

    def rows(scale: str, variant: Variant) -> list[Variant]:
        own = {variant.codec.family} if variant.codec else families[scale, variant]
        return [replace(variant, codec=family) for family in own]

    loss = Table(
        name="compression",
        title="Final held-out loss by compression",
        across="size",
        column_order=_by_size,
        measured=_along(group, row=rows, column=_size, reference=FP32),
        published=published_compression(),
        notes=[
            _SAME_BATCH,
            "The paper gathers all payloads and encodes the mean of quantized ones again; its linear codec is per row.",
        ],
        needs="runs with compressed pseudogradients",
    )
    return [loss, _over(loss, FP32, name="compression_over_fp32", title="% over fp32 by compression")]


def streaming_tables(group: Group) -> list[Table]:
    """Loss by fragments and delay, and % over one fragment, for each method and K that streams, with one fragment where
    it was run."""
    fields = ("fragments", "delay", "alpha")
    loss = Table(
        name="streaming",
        title="Final held-out loss by fragments (J) and delay (tau)",
        across="streaming",
        column_order=lambda column: (column != UNFRAGMENTED, column),
        measured=_along(
            group,
            row=lambda _, variant: [variant.without(*fields)] if variant.workers is not None else [],
            column=lambda variant: variant.streaming,
            reference=UNFRAGMENTED,
        ),
        published={(_paper_row(method), "J=3"): loss for method, loss in published.STREAMING_LOSS.items()},
        notes=[_SAME_BATCH, "The paper gives two digits and no K; they fit K = 8 and stand there."],
        needs="runs with fragments",
    )
    title = "% over one fragment without delay"
    return [loss, _over(loss, UNFRAGMENTED, name="streaming_over_unfragmented", title=title)]


def published_compression() -> dict[Cell, float]:
    """Published losses in the rows and columns of our tables: linear is per row, statistical per tensor."""
    losses = {}
    for name, by_bits in published.COMPRESSED_LOSS.items():
        method, kind, *feedback = name.split()
        codec = CodecLabel(kind, details="per row" if kind == "linear" else "", error_feedback=bool(feedback))
        for bits, loss in by_bits.items():
            losses[_paper_row(method, codec), FP32 if bits == 32 else f"{bits} bits"] = loss
    for name, by_fraction in published.TOPK_LOSS.items():
        method, *feedback = name.split()
        codec = CodecLabel("topk", error_feedback=bool(feedback))
        for fraction, loss in by_fraction.items():
            losses[_paper_row(method, codec), f"{100 * fraction:g} %"] = loss
        losses[_paper_row(method, codec), FP32] = published.COMPRESSED_LOSS[f"{method} linear"][32]
    return losses


def _paper_row(method: str, codec: CodecLabel | None = None) -> Key:
    return _PAPER_SCALE, Variant(method, _PAPER_WORKERS, codec=codec)


def _along(
    group: Group,
    *,
    row: Callable[[str, Variant], Iterable[Variant]],
    column: Callable[[Variant], str],
    reference: str = "",
) -> dict[Cell, Measured]:
    """The losses of the best points in rows that are alike but for one setting.

    Args:
        group: of the points.
        row: says in which rows a variant stands at a scale.
        column: the setting of a variant.
        reference: the column that is compared with; a row needs another one. Empty: a row needs two columns.
    """
    points: dict[Key, dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for point in group.points:
        for variant in row(point.scale, point.variant):
            points[point.scale, variant][column(point.variant)].append(point)
    along: dict[Cell, Measured] = {}
    for key, columns in points.items():
        best = best_at_common_batches(columns) if reference or len(columns) > 1 else {}
        if set(best) != {reference}:
            along |= {(key, name): choice.measured for name, choice in best.items()}
    return along


def _over(loss: Table, reference: str, *, name: str, title: str) -> Table:
    """The table in % over its column `reference`."""

    def loss_of_reference(cell: Cell) -> float | str:
        measured = loss.measured.get((cell[0], reference))
        return measured.value if measured else f"no run with {reference}"

    return Table(
        name=name,
        title=title,
        across=loss.across,
        column_order=loss.column_order,
        **compared({cell: value for cell, value in loss.measured.items() if cell[1] != reference}, loss_of_reference),
        published={
            (row, column): 100 * (value / loss.published[row, reference] - 1)
            for (row, column), value in loss.published.items()
            if column != reference and (row, reference) in loss.published
        },
        form="+.2f",
    )


def _size(variant: Variant) -> str:
    return (variant.codec.size or ONE_SIZE) if variant.codec else FP32


def _by_size(column: str) -> tuple[int, float, str]:
    """Sorts fp32 first, then bits from few to many, then fractions, then other sizes."""
    number = CodecLabel("", size=column).amount
    order = 0 if column == FP32 else 1 if column.endswith(("bit", "bits")) else 2 if column.endswith("%") else 3
    return order, number, column
