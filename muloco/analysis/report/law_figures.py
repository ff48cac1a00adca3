"""Figures from fits over scales: power laws, critical batch sizes, iso-loss compute and steps."""

from collections.abc import Mapping, Sequence

import numpy as np

from muloco.analysis.chart import Figure, Panel, Series
from muloco.analysis.power_law import fit_power_law
from muloco.analysis.published import CRITICAL_BATCH_EXPONENT, EXPONENT
from muloco.analysis.records.method import Variant, baseline
from muloco.analysis.records.pooling import Group
from muloco.analysis.report.figures import LOSS
from muloco.analysis.report.laws import (
    BASE,
    ISO,
    LEAST_SCALES,
    NEEDS,
    NEEDS_BASE,
    Scaling,
    critical_batch_table,
    iso_loss,
)
from muloco.analysis.report.value_table import Value
from muloco.model.flavors import flavor

Scalings = Mapping[Variant, Scaling]


def power_laws(measured: Scalings, published: Scalings) -> Figure:
    """Loss against compute with the fitted laws, a panel for each inner optimizer.

    Args:
        measured: scalings of a group's variants.
        published: the paper's; empty: not drawn.
    """
    by_base: dict[str, list[Series]] = {}
    for scalings, theirs in ((measured, False), (published, True)):
        for variant, scaling in scalings.items():
            x = _along(scaling.compute)
            y = [float(scaling.law.predict(compute)) for compute in x]
            name = f"{variant.label}, {_exponents(variant, scaling, theirs=theirs)}"
            by_base.setdefault(baseline(variant.method), []).extend(
                [
                    Series(label=name, look=variant.label, x=x, y=y, published=theirs, points=False),
                    Series(label="", x=scaling.compute, y=scaling.loss, published=theirs, line=False),
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
        + refitted * bool(published),
        needs=NEEDS,
    )


def critical_batches(group: Group, *, published: bool) -> Figure:
    """Critical batch against tokens trained on; with the exponent of a power law where there are enough scales."""
    tokens = {point.scale: float(point.first.tokens) for point in group.points}
    lines: dict[tuple[str, bool], list[Value]] = {}
    for value in critical_batch_table(group).values(published=published):
        lines.setdefault((value.variant.label, value.published), []).append(value)
    series = []
    for (name, theirs), values in lines.items():
        if len(values) < 2:
            continue
        x = [float(flavor(value.column).token_budget) if theirs else tokens[value.column] for value in values]
        y = [value.number for value in values]
        exponent = CRITICAL_BATCH_EXPONENT.get(name) if theirs else None
        if not theirs and len(values) >= LEAST_SCALES:
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


def iso_loss_ratios(measured: Scalings, published: Scalings) -> Figure:
    """How many times a method's compute and sequential steps DP AdamW needs for the same loss."""
    panels: dict[str, list[Series]] = {quantity: [] for quantity in ISO}
    for scalings, theirs in ((measured, False), (published, True)):
        for variant, scaling in scalings.items() if BASE in scalings else ():
            if variant == BASE or (theirs and (variant.workers or 1) > 1):
                continue
            ratios = {compute: iso_loss(scaling, scalings[BASE], compute) for compute in _along(scaling.compute)}
            for quantity, series in panels.items():
                if x := [compute for compute, known in ratios.items() if quantity in known]:
                    y = [ratios[compute][quantity] for compute in x]
                    series.append(Series(label=variant.label, x=x, y=y, published=theirs, points=False))
    timed = (
        "." if panels["steps"] else f"; they need critical batches of DP AdamW and another at {LEAST_SCALES} scales."
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
        f"Sequential steps, which stand for time, are compute over critical batch{timed}" + refitted * bool(published),
        needs=NEEDS_BASE,
    )


def _exponents(variant: Variant, scaling: Scaling, *, theirs: bool) -> str:
    fitted = f"{scaling.law.exponent:.4f}"
    if not theirs:
        return f"exponent {fitted}"
    printed = EXPONENT.get(variant.name)
    published = "" if printed is None else f"{printed:.4f} published, "
    return f"exponent {published}{fitted} refitted here"


def _along(compute: Sequence[float]) -> list[float]:
    """40 computes from the smallest to the largest."""
    return [float(value) for value in np.geomspace(min(compute), max(compute), 40)]
