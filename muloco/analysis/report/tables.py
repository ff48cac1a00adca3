"""The paper's tables: final loss, % above the data-parallel baseline, batches, zero-shot."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from muloco.analysis import published
from muloco.analysis.records.method import Variant, baseline
from muloco.analysis.records.pooling import Group, Point, best, choice
from muloco.analysis.records.zero_shot import TASKS, without_subtasks
from muloco.analysis.table import OWN, Measured, Row, Table, TextTable
from muloco.model.flavors import flavor, flavors

SCALES = tuple(flavor(name).alias for name in flavors())
MEAN = "mean"
PAPER_MEAN = "mean of the paper's tasks"
_CORNER = ("method", "K", "variant")

Key = tuple[str, Variant]
"""Scale (empty where scales are the columns) and variant: a row."""


@dataclass(frozen=True)
class Choice:
    """The best of the points that stand for the same cell."""

    point: Point
    among: tuple[Point, ...]

    @property
    def measured(self) -> Measured:
        point = self.point
        return Measured(point.loss, point.spread, len(point.runs), choice(point, self.among))


def chosen(points: Iterable[Point]) -> Choice | None:
    """The best point; None where there is none that has not diverged."""
    among = tuple(points)
    point = best(among)
    return None if point is None else Choice(point, among)


def best_by_variant(group: Group) -> dict[Key, Choice]:
    """The best point of each scale and variant, over learning rates, batches and what else was tried."""
    found = {(scale, variant): chosen(group.at(scale, variant)) for scale in group.scales for variant in group.variants}
    return {key: one for key, one in found.items() if one is not None}


def final_loss(group: Group, *, everything: bool) -> Table:
    """Final held-out loss by method, K and scale, the best over inner learning rates and batches.

    Args:
        group: of one corpus and token budget.
        everything: also the rows that are published and not measured.
    """
    measured = {(("", variant), scale): one.measured for (scale, variant), one in best_by_variant(group).items()}
    return table(
        "final_loss",
        "Final held-out loss",
        measured=measured,
        published={(("", variant), scale): loss for variant, scale, loss in published_losses()},
        everything=everything,
        across="scale",
        column_order=SCALES.index,
        notes=["In nats a token. The paper's data is not public: compare its ratios and orders, not its losses."],
    )


def over_baseline(group: Group, *, everything: bool) -> Table:
    """% that the final loss is above that of the data-parallel run with the same inner optimizer."""
    at_best = best_by_variant(group)
    measured, missing = {}, {}
    for (scale, variant), one in at_best.items():
        if variant.workers is None:
            continue
        cell = (("", variant), scale)
        own = baseline(variant.method)
        reference = at_best.get((scale, Variant(own)))
        if reference is None:
            missing[cell] = f"no {own}"
        else:
            measured[cell] = relative(one.measured, reference.point.loss)
    return table(
        "over_dp",
        "% above its own data-parallel baseline",
        measured=measured,
        missing=missing,
        published={
            (("", Variant(method, workers)), scale): value
            for method, by_workers in published.OVER_DP.items()
            for workers, by_scale in by_workers.items()
            for scale, value in by_scale.items()
        },
        everything=everything,
        across="scale",
        column_order=SCALES.index,
        form="+.2f",
        needs="runs with workers",
        notes=["Of the same scale, corpus and token budget, each at its best inner learning rate and batch."],
    )


def batches(group: Group, *, everything: bool) -> Table:
    """Final loss by tokens of an inner step, the best over inner learning rates: of plain methods, and of variants with
    several batches."""
    measured = {}
    for scale in group.scales:
        for variant in group.variants:
            points = group.at(scale, variant)
            sizes = {point.batch for point in points}
            for batch in sizes if len(sizes) > 1 or not variant.rest else ():
                if one := chosen(point for point in points if point.batch == batch):
                    measured[(scale, variant), f"{batch:,}"] = one.measured
    return table(
        "batch_size",
        "Final held-out loss by batch, in tokens an inner step",
        measured=measured,
        published={
            (("3.1B", published_variant(name)), f"{batch:,}"): loss
            for name, by_batch in published.LOSS_BY_BATCH.items()
            for batch, loss in by_batch.items()
        },
        everything=everything,
        across="batch",
        column_order=lambda column: int(column.replace(",", "")),
    )


def zero_shot(group: Group, *, everything: bool) -> Table:
    """Accuracies in %, of the runs with the best held-out loss, and their mean."""
    measured = {}
    for key, one in best_by_variant(group).items():
        runs = [run for run in one.point.runs if run.zero_shot]
        tasks = without_subtasks(set.intersection(*(set(run.zero_shot) for run in runs))) if runs else []
        for task in tasks:
            measured[key, task] = over_seeds([run.zero_shot[task] for run in runs])
        for name, averaged in ((MEAN, tasks), (PAPER_MEAN, TASKS)):
            if averaged and set(averaged) <= set(tasks):
                means = [statistics.fmean(run.zero_shot[task] for task in averaged) for run in runs]
                measured[key, name] = over_seeds(means, note=f"of {', '.join(averaged)}")
    others = {column for _, column in measured} - {*TASKS, MEAN, PAPER_MEAN}
    return table(
        "zero_shot",
        "Zero-shot accuracy in %",
        measured=measured,
        published={
            (("15B", published_variant(name)), PAPER_MEAN): value for name, value in published.ZERO_SHOT.items()
        },
        everything=everything,
        across="task",
        column_order=[*TASKS, *sorted(others), MEAN, PAPER_MEAN].index,
        form=".2f",
        notes=[f"The paper publishes means alone, over {', '.join(TASKS)}."],
        needs="finished runs that were evaluated after their last step (docs/evaluation.md)",
    )


def choices(group: Group) -> TextTable:
    """The settings behind each final loss, and what they were chosen from."""
    headers = [
        "scale",
        *_CORNER,
        "inner lr",
        "batch in tokens",
        "outer lr",
        "outer momentum",
        "seeds",
        "loss",
        OWN,
        "best of",
    ]
    rows = []
    for (scale, variant), one in sorted(best_by_variant(group).items(), key=lambda item: _row_order(item[0])):
        settings = one.point.settings
        outer = ("outer_optimizer.lr", "outer_optimizer.momentum")
        rows.append(
            [
                *(scale, *variant.key, f"{settings['optimizer.lr']:g}", f"{one.point.batch:,}"),
                *("" if variant.workers is None else f"{settings[field]:g}" for field in outer),
                ", ".join(str(run.seed) for run in one.point.runs),
                f"{one.point.loss:.4f}",
                f"{own.loss:.4f}" if variant.workers is not None and (own := one.point.as_published()) else "",
                choice(one.point, one.among),
            ]
        )
    return TextTable("chosen", "The runs behind the final losses", headers, rows)


def table(
    name: str,
    title: str,
    *,
    measured: Mapping[tuple[Key, str], Measured],
    published: Mapping[tuple[Key, str], float],
    everything: bool,
    across: str,
    column_order: Callable[[str], object],
    missing: Mapping[tuple[Key, str], str] | None = None,
    form: str = ".4f",
    notes: Iterable[str] = (),
    needs: str = "",
) -> Table:
    """A table with rows and columns in their order; published values stand where a measured row and column meet."""
    missing = missing or {}
    filled = [*measured, *missing, *(published if everything else ())]
    rows = sorted({key for key, _ in filled}, key=_row_order)
    columns = sorted({column for _, column in filled}, key=column_order)  # type: ignore[arg-type]
    beside = {(key, column): (_however_reduced(key), column) for key in rows for column in columns}
    return Table(
        name=name,
        title=title,
        corner=("scale", *_CORNER),
        across=across,
        measured={(row(key), column): value for (key, column), value in measured.items()},
        missing={(row(key), column): value for (key, column), value in missing.items()},
        published={(row(at[0]), at[1]): published[twin] for at, twin in beside.items() if twin in published},
        form=form,
        rows=[row(key) for key in rows],
        columns=columns,
        notes=tuple(notes),
        needs=needs,
    )


def row(key: Key) -> Row:
    scale, variant = key
    return scale, *variant.key


def relative(measured: Measured, reference: float) -> Measured:
    """Returns a value in % over a reference, which counts as exact for the spread."""
    return Measured(
        100 * (measured.value / reference - 1),
        None if measured.spread is None else 100 * measured.spread / reference,
        measured.seeds,
        measured.note,
    )


def over_seeds(values: Sequence[float], note: str = "") -> Measured:
    """Mean and sample standard deviation."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Measured(statistics.fmean(values), spread, len(values), note)


def published_variant(name: str) -> Variant:
    """The variant that the published tables call `DP Muon` or `MuLoCo K=8`."""
    method, _, workers = name.partition(" K=")
    return Variant(method, int(workers) if workers else None)


def published_losses() -> Iterator[tuple[Variant, str, float]]:
    """Variant, scale and final loss."""
    for name, by_scale in published.FINAL_LOSS.items():
        for scale, loss in by_scale.items():
            yield published_variant(name), scale, loss
    for method, by_workers in published.WORKER_LOSS.items():
        for workers in set(by_workers) - {1, 16}:  # these are in FINAL_LOSS
            for scale, loss in by_workers[workers].items():
                yield Variant(method, workers), scale, loss


def _row_order(key: Key) -> tuple:
    scale, variant = key
    return (SCALES.index(scale) if scale else -1), variant.order


def _however_reduced(key: Key) -> Key:
    """Compares all ways to reduce with the paper's figure."""
    scale, variant = key
    return scale, replace(variant, codec=variant.codec and replace(variant.codec, reduce="reselect"))
