"""Tables along one setting, all else equal: H, bits or fraction, fragments."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

from muloco.analysis import published
from muloco.analysis.records.method import CodecLabel, Variant, baseline
from muloco.analysis.records.pooling import Group, Point, at_common_batches
from muloco.analysis.report.tables import Choice, Key, best_by_variant, chosen, relative, table
from muloco.analysis.table import Measured, Table

FP32 = "fp32"
ONE_SIZE = "one size"
"""Column of the codecs that say no size."""
UNFRAGMENTED = Variant("").streaming
_PAPER_SCALE, _PAPER_WORKERS = "416M", 8
_SAME_BATCH = "At the batches that all of a row have in common, if there are any."
Along = dict[Key, dict[str, Choice]]
"""Rows, which are alike but for one setting, and by that setting the best point."""


def sync_intervals(group: Group) -> Along:
    """Returns the best points by H, for each method and K that was run with several H."""
    return _along(
        group,
        row=lambda _, variant: [variant.without("sync_steps")] if variant.workers is not None else [],
        column=lambda variant: str(variant.sync_steps),
    )


def codecs(group: Group) -> Along:
    """Returns the best points by bits or fraction, for each method, K and codec, with fp32 where it was run."""
    families: dict[Key, set[CodecLabel]] = defaultdict(set)
    for point in group.points:
        if point.variant.codec:
            families[point.scale, point.variant.without("codec")].add(point.variant.codec.family)

    def rows(scale: str, variant: Variant) -> list[Variant]:
        plain = variant.without("codec")
        own = {variant.codec.family} if variant.codec else families.get((scale, plain), set())
        return [replace(variant, codec=family) for family in own]

    found = _along(group, row=rows, column=_size, least=1)
    return {key: columns for key, columns in found.items() if set(columns) != {FP32}}


def fragments(group: Group) -> Along:
    """Returns the best points by fragments and delay, for each method and K that streams, with one fragment where it
    was run."""
    found = _along(
        group,
        row=lambda _, variant: [variant.without("fragments", "delay", "alpha")] if variant.workers is not None else [],
        column=lambda variant: variant.streaming,
        least=1,
    )
    return {key: columns for key, columns in found.items() if set(columns) != {UNFRAGMENTED}}


def sync_interval_tables(group: Group, *, everything: bool) -> list[Table]:
    """Loss by H, and % above the data-parallel baseline."""
    found = sync_intervals(group)
    at_best = best_by_variant(group)
    over, missing = {}, {}
    for (scale, variant), columns in found.items():
        own = baseline(variant.method)
        reference = at_best.get((scale, Variant(own)))
        for column, one in columns.items():
            if reference is None:
                missing[(scale, variant), column] = f"no {own}"
            else:
                over[(scale, variant), column] = relative(one.measured, reference.point.loss)
    theirs = {
        ((_PAPER_SCALE, Variant(method, _PAPER_WORKERS)), str(interval)): value
        for method, by_interval in published.SYNC_INTERVAL_OVER_DP.items()
        for interval, value in by_interval.items()
    }
    make = partial(table, everything=everything, across="H", column_order=int)
    loss = make(
        "sync_interval",
        "Final held-out loss by sync interval H",
        measured=_losses(found),
        published={},
        notes=[_SAME_BATCH],
        needs="a method with two sync intervals at one scale and K",
    )
    over_dp = make(
        "sync_interval_over_dp",
        "% above its own data-parallel baseline by sync interval H",
        measured=over,
        missing=missing,
        published=theirs,
        form="+.2f",
        notes=[_SAME_BATCH, "The paper does not say its K; its figures fit K = 8 and stand there."],
    )
    return [loss, over_dp]


def compression_tables(group: Group, *, everything: bool) -> list[Table]:
    """Loss by bits or fraction, and % over fp32."""
    found = codecs(group)
    theirs = published_compression()
    columns = {column for columns in found.values() for column in columns} | {column for _, column in theirs}
    make = partial(table, everything=everything, across="size", column_order=sorted(columns, key=_by_size).index)
    loss = make(
        "compression",
        "Final held-out loss by compression",
        measured=_losses(found),
        published=theirs,
        notes=[
            _SAME_BATCH,
            "The paper gathers all payloads and encodes the mean of quantized ones again; its linear codec is per row.",
        ],
        needs="runs with compressed pseudogradients",
    )
    over, missing = _over(found, FP32)
    over_fp32 = make(
        "compression_over_fp32",
        "% over fp32 by compression",
        measured=over,
        missing=missing,
        published=_published_over(theirs, FP32),
        form="+.2f",
    )
    return [loss, over_fp32]


def streaming_tables(group: Group, *, everything: bool) -> list[Table]:
    """Loss by fragments and delay, and % over one fragment."""
    found = fragments(group)
    theirs = {
        ((_PAPER_SCALE, Variant(method, _PAPER_WORKERS)), "J=3"): loss
        for method, loss in published.STREAMING_LOSS.items()
    }
    columns = {column for columns in found.values() for column in columns} | {UNFRAGMENTED, "J=3"}
    order = sorted(columns, key=lambda column: (column != UNFRAGMENTED, column)).index
    make = partial(table, everything=everything, across="streaming", column_order=order)
    loss = make(
        "streaming",
        "Final held-out loss by fragments (J) and delay (tau)",
        measured=_losses(found),
        published=theirs,
        notes=[_SAME_BATCH, "The paper gives two digits and no K; they fit K = 8 and stand there."],
        needs="runs with fragments",
    )
    over, missing = _over(found, UNFRAGMENTED)
    over_unfragmented = make(
        "streaming_over_unfragmented",
        "% over one fragment without delay",
        measured=over,
        missing=missing,
        published={},
        form="+.2f",
    )
    return [loss, over_unfragmented]


def published_compression() -> dict[tuple[Key, str], float]:
    """Published losses in the rows and columns of our tables: linear is per row, statistical per tensor."""
    found = {}
    for name, by_bits in published.COMPRESSED_LOSS.items():
        method, kind, *feedback = name.split()
        codec = CodecLabel(kind, details="per row" if kind == "linear" else "", error_feedback=bool(feedback))
        for bits, loss in by_bits.items():
            found[_theirs(method, codec), FP32 if bits == 32 else f"{bits} bits"] = loss
    for name, by_fraction in published.TOPK_LOSS.items():
        method, *feedback = name.split()
        codec = CodecLabel("topk", error_feedback=bool(feedback))
        for fraction, loss in by_fraction.items():
            found[_theirs(method, codec), f"{100 * fraction:g} %"] = loss
        found[_theirs(method, codec), FP32] = published.COMPRESSED_LOSS[f"{method} linear"][32]
    return found


def _theirs(method: str, codec: CodecLabel) -> Key:
    return _PAPER_SCALE, Variant(method, _PAPER_WORKERS, codec=codec)


def _along(
    group: Group,
    *,
    row: Callable[[str, Variant], Iterable[Variant]],
    column: Callable[[Variant], str],
    least: int = 2,
) -> Along:
    """Rows with at least so many columns. `row` says in which rows a variant stands at a scale."""
    points: dict[Key, dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for point in group.points:
        for variant in row(point.scale, point.variant):
            points[point.scale, variant][column(point.variant)].append(point)
    found: Along = {}
    for key, columns in points.items():
        if len(columns) >= least:
            comparable = at_common_batches(columns)
            best = {name: one for name, among in comparable.items() if (one := chosen(among)) is not None}
            found |= {key: best} if best else {}
    return found


def _losses(found: Along) -> dict[tuple[Key, str], Measured]:
    return {(key, column): one.measured for key, columns in found.items() for column, one in columns.items()}


def _over(found: Along, reference: str) -> tuple[dict[tuple[Key, str], Measured], dict[tuple[Key, str], str]]:
    """Returns the values of a table in % over the column `reference`, and what it lacks."""
    measured, missing = {}, {}
    for key, columns in found.items():
        for column, one in columns.items():
            if column == reference:
                continue
            if reference in columns:
                measured[key, column] = relative(one.measured, columns[reference].point.loss)
            else:
                missing[key, column] = f"no run with {reference}"
    return measured, missing


def _published_over(theirs: Mapping[tuple[Key, str], float], reference: str) -> dict[tuple[Key, str], float]:
    return {
        (key, column): 100 * (loss / theirs[key, reference] - 1)
        for (key, column), loss in theirs.items()
        if column != reference
    }


def _size(variant: Variant) -> str:
    return (variant.codec.size or ONE_SIZE) if variant.codec else FP32


def _by_size(column: str) -> tuple[int, float, str]:
    """Sorts fp32 first, then bits from few to many, then fractions, then other sizes."""
    number = CodecLabel("", size=column).amount
    order = 0 if column == FP32 else 1 if column.endswith(("bit", "bits")) else 2 if column.endswith("%") else 3
    return order, number, column
