"""Fits over scales and their consequences: power laws, critical batches, iso-loss compute and steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from muloco.analysis import published
from muloco.analysis.critical_batch import critical_batch
from muloco.analysis.power_law import PowerLaw, fit_power_law
from muloco.analysis.records.method import Variant
from muloco.analysis.records.pooling import Group, Key, Measured
from muloco.analysis.report.tables import published_losses, published_variant
from muloco.analysis.report.value_table import SCALES, Table
from muloco.model.flavors import flavor

LEAST_SCALES = 3
NEEDS = f"a method at {LEAST_SCALES} scales of one corpus and budget"
NEEDS_BASE = f"DP AdamW and another method at {LEAST_SCALES} scales of one corpus and budget"
BASE = Variant("DP AdamW")
"""The variant with which iso-loss figures compare the others."""
_LARGEST_FITTED = "3.1B"
_LAW = ("exponent", "coefficient", "irreducible")
ISO = ("compute", "steps")
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
        if len(points) >= LEAST_SCALES
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
    losses: dict[Variant, dict[str, float]] = {}
    for variant, scale, loss in published_losses():
        if SCALES.index(scale) <= SCALES.index(_LARGEST_FITTED):
            losses.setdefault(variant, {})[scale] = loss
    scalings = {}
    for variant, by_scale in sorted(losses.items(), key=lambda item: item[0].order):
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
    names = {name: ("", published_variant(name)) for name in published.EXPONENT}
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
        published={
            **{(row, "exponent"): published.EXPONENT[name] for name, row in names.items()},
            **{(row, "irreducible"): published.IRREDUCIBLE for row in names.values()},
        },
        form=".5g",
        notes=["Compute is 6 x parameters x tokens. The irreducible loss is fitted once for all methods of a corpus."],
        needs=NEEDS,
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
        across="scale",
        column_order=SCALES.index,
        measured=measured,
        published={
            (("", published_variant(name)), scale): float(batch)
            for name, by_scale in published.CRITICAL_BATCH.items()
            for scale, batch in by_scale.items()
        },
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
        column_order=ISO.index,
        measured={
            ((group.scales[-1], variant), column): Measured(ratio)
            for variant, scaling in scalings.items()
            if variant != BASE and BASE in scalings
            for column, ratio in iso_loss(scaling, scalings[BASE], scaling.compute[-1]).items()
        },
        published={
            ((_LARGEST_FITTED, published_variant(name)), column): value
            for name, values in published.ISO_LOSS.items()
            for column, value in zip(ISO, values, strict=True)
        },
        form=".3g",
        notes=["From the power laws, at the largest scale. Steps are compute over critical batch."],
        needs=NEEDS_BASE,
    )


def iso_loss(scaling: Scaling, base: Scaling, compute: float) -> dict[str, float]:
    """Compute and steps that `base` needs for the loss that `scaling` reaches with `compute`, as multiples of its own,
    by the names in `ISO`; without those that its law never reaches, or that take an unknown critical batch."""
    needed = base.compute_for(float(scaling.law.predict(compute)))
    if needed is None:
        return {}
    theirs, ours = base.sequential_steps(needed), scaling.sequential_steps(compute)
    return {"compute": needed / compute, **({"steps": theirs / ours} if theirs and ours else {})}


def _batch_law(group: Group, variant: Variant) -> PowerLaw | None:
    """Returns the power law of critical batch against tokens trained on, if there are enough scales."""
    tokens = {point.scale: float(point.first.tokens) for point in group.points}
    batches = {scale: float(size) for (scale, other), size in critical_batches(group).items() if other == variant}
    if len(batches) < LEAST_SCALES:
        return None
    return fit_power_law([tokens[scale] for scale in batches], list(batches.values()), 0.0)


def _published_batch_law(variant: Variant) -> PowerLaw | None:
    """The printed exponent through the batch of the largest scale."""
    exponent = published.CRITICAL_BATCH_EXPONENT.get(variant.name)
    if exponent is None:
        return None
    size, tokens = published.CRITICAL_BATCH[variant.name][_LARGEST_FITTED], flavor(_LARGEST_FITTED).token_budget
    return PowerLaw(coefficient=size / tokens**exponent, exponent=exponent)
