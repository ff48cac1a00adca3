"""Fits over scales, as tables and figures: power laws, critical batches, iso-loss compute and steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from muloco.analysis import published
from muloco.analysis.chart import Figure, Panel, Series
from muloco.analysis.critical_batch import critical_batch
from muloco.analysis.power_law import PowerLaw, fit_power_law
from muloco.analysis.records.method import Variant, baseline
from muloco.analysis.records.pooling import Group, Key, Measured
from muloco.analysis.report.figures import LOSS
from muloco.analysis.report.tables import published_cells, published_losses, published_variant
from muloco.analysis.report.value_table import SCALES, Table, Value
from muloco.model.flavors import flavor

_LEAST_SCALES = 3
_NEEDS = f"a method at {_LEAST_SCALES} scales of one corpus and budget"
_NEEDS_BASE = f"DP AdamW and another method at {_LEAST_SCALES} scales of one corpus and budget"
_BASE = Variant("DP AdamW")
"""The variant with which iso-loss figures compare the others."""
_LARGEST_FITTED = "3.1B"
_LAW = ("exponent", "coefficient", "irreducible")
_ISO = ("compute", "steps")
"""The quantities that iso-loss figures compare."""


@dataclass(frozen=True)
class Scaling:
    """The results of a variant at several scales, the smallest first."""

    compute: Sequence[float]
    """FLOPs at each scale, 6 x parameters x tokens."""
    loss: Sequence[float]
    tokens: Sequence[float]
    """Tokens trained on at each scale."""
    irreducible: float
    batch: PowerLaw | None = None
    """Critical batch by tokens trained on; None: not known at enough scales."""

    @cached_property
    def law(self) -> PowerLaw:
        """Power law of loss against compute."""
        return fit_power_law(self.compute, self.loss, self.irreducible)

    @cached_property
    def tokens_law(self) -> PowerLaw:
        """Power law of the tokens that belong to a compute."""
        return fit_power_law(self.compute, self.tokens, 0.0)

    def compute_for(self, loss: float) -> float | None:
        """FLOPs at which the law reaches a loss; None: never."""
        above = loss - self.law.irreducible
        return (above / self.law.coefficient) ** (1 / self.law.exponent) if above > 0 else None

    def sequential_steps(self, compute: float) -> float | None:
        """Compute over critical batch, the paper's measure of time, up to a factor."""
        if self.batch is None:
            return None
        return compute / float(self.batch.predict(float(self.tokens_law.predict(compute))))


def measured_scalings(group: Group) -> dict[Variant, Scaling]:
    """Returns the scaling of every variant with enough scales. All have the same irreducible loss, since it belongs to
    the corpus."""
    curves: dict[Variant, list[tuple[float, float, float]]] = {}
    for (_, variant), best in group.best.items():
        run = best.point.first
        curves.setdefault(variant, []).append((run.compute, best.point.loss, float(run.tokens)))
    columns = {
        variant: tuple(zip(*sorted(points), strict=True))
        for variant, points in curves.items()
        if len(points) >= _LEAST_SCALES
    }
    if not columns:
        return {}
    irreducible = shared_irreducible([(compute, loss) for compute, loss, _ in columns.values()])
    return {
        variant: Scaling(compute, loss, tokens, irreducible, _batch_law(group, variant))
        for variant, (compute, loss, tokens) in columns.items()
    }


def published_scalings() -> dict[Variant, Scaling]:
    """The paper's, refitted from its losses with its irreducible loss; critical batches by its exponents."""
    fitted = SCALES[: SCALES.index(_LARGEST_FITTED) + 1]
    losses = {published_variant(name): by_scale for name, by_scale in published_losses().items()}
    scalings = {}
    for variant in sorted(losses, key=lambda variant: variant.order):
        by_scale = {scale: loss for scale, loss in losses[variant].items() if scale in fitted}
        sizes = [flavor(scale) for scale in by_scale]
        scalings[variant] = Scaling(
            [6.0 * size.parameters * size.token_budget for size in sizes],
            list(by_scale.values()),
            [float(size.token_budget) for size in sizes],
            published.IRREDUCIBLE,
            _published_batch_law(variant),
        )
    return scalings


def shared_irreducible(curves: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """The irreducible loss with which power laws fit several curves of compute and loss best, in relative squares."""
    from scipy.optimize import minimize_scalar

    def misfit(irreducible: float) -> float:
        laws = [fit_power_law(compute, loss, irreducible) for compute, loss in curves]
        return float(sum(np.sum((law.predict(x) / y - 1) ** 2) for law, (x, y) in zip(laws, curves, strict=True)))

    most = min(min(loss) for _, loss in curves) * (1 - 1e-3)
    grid = np.linspace(0, most, 40)
    place = int(np.argmin([misfit(value) for value in grid]))
    around = (grid[max(0, place - 1)], grid[min(len(grid) - 1, place + 1)])
    least = minimize_scalar(misfit, bounds=around, method="bounded", options={"xatol": 1e-6})
    return float(least.x if misfit(least.x) < misfit(grid[place]) else grid[place])


def critical_batches(group: Group) -> dict[Key, int]:
    """Critical batch in tokens, by scale and variant, where two batches or more are there."""
    losses = {
        (scale, variant): {batch: best.point.loss for batch, best in group.best_by_batch(scale, variant).items()}
        for scale in group.scales
        for variant in group.variants
    }
    return {key: critical_batch(by_batch) for key, by_batch in losses.items() if len(by_batch) > 1}


def power_law_table(scalings: Mapping[Variant, Scaling]) -> Table:
    """Exponent, coefficient and irreducible loss."""
    return Table(
        name="power_law",
        title="Power laws: loss = coefficient x compute ^ exponent + irreducible",
        across="parameter",
        column_order=_LAW.index,
        measured={
            (("", variant), parameter): Measured(getattr(scaling.law, parameter), note=f"{len(scaling.loss)} scales")
            for variant, scaling in scalings.items()
            for parameter in _LAW
        },
        published=published_cells(
            {
                name: {"exponent": exponent, "irreducible": published.IRREDUCIBLE}
                for name, exponent in published.EXPONENT.items()
            }
        ),
        form=".5g",
        notes=["Compute is 6 x parameters x tokens. The irreducible loss is fitted once for all methods of a corpus."],
        needs=_NEEDS,
    )


def critical_batch_table(group: Group) -> Table:
    """The largest batch whose loss is within 1 % of the best."""
    measured = {}
    for (scale, variant), batch in critical_batches(group).items():
        largest = max(point.batch for point in group.at(scale, variant))
        note = "the largest batch tried: it may be larger" if batch == largest else ""
        measured[("", variant), scale] = Measured(batch, note=note)
    return Table(
        name="critical_batch",
        title="Critical batch in tokens an inner step",
        measured=measured,
        published={cell: float(batch) for cell, batch in published_cells(published.CRITICAL_BATCH).items()},
        form=",.0f",
        notes=["The largest batch tried whose loss is at most 1.01 times that of the best batch."],
        needs="a method with two batch sizes at one scale",
    )


def iso_loss_table(scalings: Mapping[Variant, Scaling], group: Group) -> Table:
    """How much less compute and how many fewer steps reach the loss that DP AdamW has, at the largest scale."""
    return Table(
        name="iso_loss",
        title="DP AdamW's compute and steps for the same loss, as multiples",
        across="of",
        column_order=_ISO.index,
        measured={
            ((group.scales[-1], variant), column): Measured(ratio)
            for variant, scaling in scalings.items()
            if variant != _BASE and _BASE in scalings
            for column, ratio in iso_loss(scaling, scalings[_BASE], scaling.compute[-1]).items()
        },
        published=published_cells(
            {name: dict(zip(_ISO, ratios, strict=True)) for name, ratios in published.ISO_LOSS.items()}, _LARGEST_FITTED
        ),
        form=".3g",
        notes=["From the power laws, at the largest scale. Steps are compute over critical batch."],
        needs=_NEEDS_BASE,
    )


def iso_loss(scaling: Scaling, base: Scaling, compute: float) -> dict[str, float]:
    """Compute and steps that `base` needs for the loss that `scaling` reaches with `compute`, as multiples of its own,
    by the names in `_ISO`; without those that its law never reaches, or that take an unknown critical batch."""
    needed = base.compute_for(float(scaling.law.predict(compute)))
    if needed is None:
        return {}
    theirs, ours = base.sequential_steps(needed), scaling.sequential_steps(compute)
    return {"compute": needed / compute, **({"steps": theirs / ours} if theirs and ours else {})}


def power_law_figure(ours: Mapping[Variant, Scaling], theirs: Mapping[Variant, Scaling]) -> Figure:
    """Loss against compute with the fitted laws, a panel for each inner optimizer.

    Args:
        ours: scalings of a group's variants.
        theirs: the paper's; empty: not drawn.
    """
    by_base: dict[str, list[Series]] = {}
    for scalings, paper in ((ours, False), (theirs, True)):
        for variant, scaling in scalings.items():
            x = _along(scaling.compute)
            y = [float(scaling.law.predict(compute)) for compute in x]
            name = f"{variant.label}, {_exponents(variant, scaling, paper=paper)}"
            by_base.setdefault(baseline(variant.method), []).extend(
                [
                    Series(label=name, look=variant.label, x=x, y=y, published=paper, points=False),
                    Series(label="", x=scaling.compute, y=scaling.loss, published=paper, line=False),
                ]
            )
    refitted = (
        " Laws are refitted here to the paper's losses; the exponents that it prints, which the table has, stand "
        "before those."
    )
    return Figure(
        name="power_laws",
        title="Power laws",
        panels=[
            Panel(
                title=f"{base.removeprefix('DP ')} inside",
                xlabel="compute (FLOPs)",
                ylabel=LOSS,
                series=series,
                xlog=10,
            )
            for base, series in by_base.items()
        ],
        caption="Final held-out loss by compute, 6 x parameters x tokens; the legend has the fitted exponents."
        + refitted * bool(theirs),
        needs=_NEEDS,
    )


def critical_batch_figure(group: Group, *, published_too: bool) -> Figure:
    """Critical batch against tokens trained on; with the exponent of a power law where there are enough scales."""
    tokens = {point.scale: float(point.first.tokens) for point in group.points}
    lines: dict[tuple[str, bool], list[Value]] = {}
    for value in critical_batch_table(group).values(published=published_too):
        lines.setdefault((value.variant.label, value.published), []).append(value)
    series = []
    for (name, theirs), values in lines.items():
        if len(values) < 2:
            continue
        x = [float(flavor(value.column).token_budget) if theirs else tokens[value.column] for value in values]
        y = [value.number for value in values]
        exponent = published.CRITICAL_BATCH_EXPONENT.get(name) if theirs else None
        if not theirs and len(values) >= _LEAST_SCALES:
            exponent = fit_power_law(x, y, 0.0).exponent
        label = name if exponent is None else f"{name}, {'published ' if theirs else ''}exponent {exponent:.3f}"
        series.append(Series(label=label, look=name, x=x, y=y, published=theirs))
    panel = Panel(
        title="critical batch",
        xlabel="tokens trained on",
        ylabel="critical batch (tokens per inner step)",
        series=series,
        xlog=10,
        ylog=2,
    )
    return Figure(
        name="critical_batch",
        title="Critical batch size",
        panels=[panel],
        caption="The largest batch tried whose loss is within 1 % of the best batch's; "
        "the legend has the exponents of tokens, those of the paper as it prints them.",
        needs="a method with two batch sizes at each of two scales",
    )


def iso_loss_figure(ours: Mapping[Variant, Scaling], theirs: Mapping[Variant, Scaling]) -> Figure:
    """How many times a method's compute and sequential steps DP AdamW needs for the same loss."""
    panels: dict[str, list[Series]] = {quantity: [] for quantity in _ISO}
    for scalings, paper in ((ours, False), (theirs, True)):
        for variant, scaling in scalings.items() if _BASE in scalings else ():
            if variant == _BASE or (paper and (variant.workers or 1) > 1):
                continue
            ratios = {compute: iso_loss(scaling, scalings[_BASE], compute) for compute in _along(scaling.compute)}
            for quantity, series in panels.items():
                if x := [compute for compute, known in ratios.items() if quantity in known]:
                    y = [ratios[compute][quantity] for compute in x]
                    series.append(Series(label=variant.label, x=x, y=y, published=paper, points=False))
    timed = (
        "." if panels["steps"] else f"; they need critical batches of DP AdamW and another at {_LEAST_SCALES} scales."
    )
    refitted = (
        " The paper's lines are refitted here to its losses; its printed values, which are in the table, "
        "differ from them by up to 4 % in compute and a third in steps."
    )
    return Figure(
        name="iso_loss",
        title="Iso-loss compute and time",
        panels=[
            Panel(
                title=f"{'sequential ' * (quantity == 'steps')}{quantity} for the same loss",
                xlabel="compute of the method (FLOPs)",
                ylabel=f"DP AdamW's {quantity} / the method's",
                series=series,
                xlog=10,
            )
            for quantity, series in panels.items()
        ],
        caption="What DP AdamW needs for the same loss, by the power laws, over what the method needs. "
        f"Sequential steps, which stand for time, are compute over critical batch{timed}" + refitted * bool(theirs),
        needs=_NEEDS_BASE,
    )


def _batch_law(group: Group, variant: Variant) -> PowerLaw | None:
    """Returns the power law of critical batch against tokens trained on, if there are enough scales."""
    tokens = {point.scale: float(point.first.tokens) for point in group.points}
    batches = {scale: float(size) for (scale, other), size in critical_batches(group).items() if other == variant}
    if len(batches) < _LEAST_SCALES:
        return None
    return fit_power_law([tokens[scale] for scale in batches], list(batches.values()), 0.0)


def _published_batch_law(variant: Variant) -> PowerLaw | None:
    """The printed exponent through the batch of the largest scale."""
    exponent = published.CRITICAL_BATCH_EXPONENT.get(variant.name)
    if exponent is None:
        return None
    size, tokens = published.CRITICAL_BATCH[variant.name][_LARGEST_FITTED], flavor(_LARGEST_FITTED).token_budget
    return PowerLaw(coefficient=size / tokens**exponent, exponent=exponent)


def _exponents(variant: Variant, scaling: Scaling, *, paper: bool) -> str:
    fitted = f"{scaling.law.exponent:.4f}"
    if not paper:
        return f"exponent {fitted}"
    printed = published.EXPONENT.get(variant.name)
    beside = "" if printed is None else f"{printed:.4f} published, "
    return f"exponent {beside}{fitted} refitted here"


def _along(compute: Sequence[float]) -> list[float]:
    """40 computes from the smallest to the largest."""
    return [float(value) for value in np.geomspace(min(compute), max(compute), 40)]
