"""The paper's tables: final loss, % above the data-parallel baseline, batches, zero-shot."""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from muloco.analysis import published
from muloco.analysis.records.method import Variant, baseline
from muloco.analysis.records.pooling import Group, Measured
from muloco.analysis.records.zero_shot import TASKS, without_subtasks
from muloco.analysis.report.value_table import CORNER, Cell, Table, row_order
from muloco.analysis.table import OWN, TextTable

MEAN = "mean"
PAPER_MEAN = "mean of the paper's tasks"


def final_loss(group: Group) -> Table:
    """Final held-out loss by method, K and scale, the best over inner learning rates and batches, of a group of one
    corpus and token budget."""
    return Table(
        name="final_loss",
        title="Final held-out loss",
        measured={(("", variant), scale): best.measured for (scale, variant), best in group.best.items()},
        published=published_cells(published_losses()),
        notes=["In nats a token. The paper's data is not public: compare its ratios and orders, not its losses."],
    )


def over_baseline(group: Group) -> Table:
    """% that the final loss is above that of the data-parallel run with the same inner optimizer."""
    losses = {
        (("", variant), scale): best.measured
        for (scale, variant), best in group.best.items()
        if variant.workers is not None
    }
    return Table(
        name="over_dp",
        title="% above its own data-parallel baseline",
        **compared(losses, lambda cell: own_baseline(group, cell[1], cell[0][1])),
        published=published_cells(_by_name(published.OVER_DP)),
        form="+.2f",
        needs="runs with workers",
        notes=["Of the same scale, corpus and token budget, each at its best inner learning rate and batch."],
    )


def compared(values: Mapping[Cell, Measured], reference: Callable[[Cell], float | str]) -> dict[str, Any]:
    """The parts `measured` and `missing` of a table: values in % over a reference, or the reason why there is none."""
    measured, missing = {}, {}
    for cell, value in values.items():
        loss = reference(cell)
        if isinstance(loss, str):
            missing[cell] = loss
        else:
            measured[cell] = value.over(loss)
    return {"measured": measured, "missing": missing}


def own_baseline(group: Group, scale: str, variant: Variant) -> float | str:
    """The loss of the data-parallel baseline of a variant, or the reason why there is none."""
    method = baseline(variant.method)
    best = group.best.get((scale, Variant(method)))
    return best.point.loss if best else f"no {method}"


def batches(group: Group) -> Table:
    """Final loss by tokens of an inner step, the best over inner learning rates: of plain methods, and of variants with
    several batches."""
    measured = {}
    for scale in group.scales:
        for variant in group.variants:
            several = len({point.batch for point in group.at(scale, variant)}) > 1
            for batch, best in group.best_by_batch(scale, variant).items() if several or not variant.rest else ():
                measured[(scale, variant), f"{batch:,}"] = best.measured
    return Table(
        name="batch_size",
        title="Final held-out loss by batch, in tokens an inner step",
        across="batch",
        column_order=lambda column: int(column.replace(",", "")),
        measured=measured,
        published=published_cells(published.LOSS_BY_BATCH, "3.1B", "{:,}".format),
    )


def zero_shot(group: Group) -> Table:
    """Accuracies in %, of the runs with the best held-out loss, and their mean."""
    measured = {}
    for key, best in group.best.items():
        runs = [run for run in best.point.runs if run.zero_shot]
        tasks = without_subtasks(set.intersection(*(set(run.zero_shot) for run in runs))) if runs else []
        for task in tasks:
            measured[key, task] = Measured.over_seeds([run.zero_shot[task] for run in runs])
        for name, averaged in ((MEAN, tasks), (PAPER_MEAN, TASKS)):
            if averaged and set(averaged) <= set(tasks):
                means = [statistics.fmean(run.zero_shot[task] for task in averaged) for run in runs]
                measured[key, name] = Measured.over_seeds(means, note=f"of {', '.join(averaged)}")
    others = {column for _, column in measured} - {*TASKS, MEAN, PAPER_MEAN}
    return Table(
        name="zero_shot",
        title="Zero-shot accuracy in %",
        across="task",
        column_order=[*TASKS, *sorted(others), MEAN, PAPER_MEAN].index,
        measured=measured,
        published=published_cells({name: {PAPER_MEAN: mean} for name, mean in published.ZERO_SHOT.items()}, "15B"),
        form=".2f",
        notes=[f"The paper publishes means alone, over {', '.join(TASKS)}."],
        needs="finished runs that were evaluated after their last step (docs/evaluation.md)",
    )


def choices(group: Group) -> TextTable:
    """The settings behind each final loss, and what they were chosen from."""
    rows: list[dict[str, str]] = []
    for (scale, variant), best in sorted(group.best.items(), key=lambda item: row_order(item[0])):
        point, settings, outer = best.point, best.point.first.settings, variant.workers is not None
        own = point.as_published() if outer else None
        rows.append(
            {
                **dict(zip(CORNER, (scale, *variant.key), strict=True)),
                "inner lr": f"{settings['optimizer.lr']:g}",
                "batch in tokens": f"{point.batch:,}",
                "outer lr": f"{settings['outer_optimizer.lr']:g}" if outer else "",
                "outer momentum": f"{settings['outer_optimizer.momentum']:g}" if outer else "",
                "seeds": ", ".join(str(run.seed) for run in point.runs),
                "loss": f"{point.loss:.4f}",
                OWN: f"{own.loss:.4f}" if own else "",
                "best of": best.note,
            }
        )
    headers = list(rows[0]) if rows else []
    return TextTable("chosen", "The runs behind the final losses", headers, [list(row.values()) for row in rows])


def published_variant(name: str) -> Variant:
    """The variant that the published tables call `DP Muon` or `MuLoCo K=8`."""
    method, _, workers = name.partition(" K=")
    return Variant(method, int(workers) if workers else None)


def published_cells(
    values: Mapping[str, Mapping[Any, float]], scale: str = "", column: Callable[[Any], str] = str
) -> dict[Cell, float]:
    """The cells of published values by name of the method (with K) and what the columns are."""
    return {
        ((scale, published_variant(name)), column(key)): value
        for name, by_key in values.items()
        for key, value in by_key.items()
    }


def published_losses() -> dict[str, Mapping[str, float]]:
    """Final losses by name of the method (with K) and scale."""
    return {**_by_name(published.WORKER_LOSS), **published.FINAL_LOSS}


def _by_name(values: Mapping[str, Mapping[int, Mapping[str, float]]]) -> dict[str, Mapping[str, float]]:
    """The values by method and K, by such names as `MuLoCo K=8`."""
    return {
        f"{method} K={workers}": by_scale
        for method, by_workers in values.items()
        for workers, by_scale in by_workers.items()
    }
