"""Figures from fits over scales: power laws, critical batch sizes, iso-loss compute and steps."""

from collections.abc import Callable, Mapping

import numpy as np

from muloco.analysis.chart import Figure, Panel, Series, Skipped, assemble
from muloco.analysis.power_law import fit_power_law
from muloco.analysis.published import CRITICAL_BATCH_EXPONENT, EXPONENT
from muloco.analysis.records.method import Variant, baseline
from muloco.analysis.records.pooling import Group
from muloco.analysis.report.figures import LOSS
from muloco.analysis.report.laws import (
    BASE,
    LEAST_SCALES,
    NEEDS,
    Scaling,
    critical_batch_table,
    iso_loss,
)
from muloco.analysis.report.values import Value, values
from muloco.model.flavors import flavor

Scalings = Mapping[Variant, Scaling]


def power_laws(measured: Scalings, published: Scalings, *, paper: bool) -> Figure | Skipped:
    """Loss against compute with the fitted laws, a panel for each inner optimizer.

    Args:
        measured: scalings of a group's variants.
        published: the paper's; empty: not drawn.
        paper: also panels without measured ones.
    """
    panels = []
    both = [(one, False) for one in measured.items()] + [(one, True) for one in published.items()]
    for base in dict.fromkeys(baseline(variant.method) for (variant, _), _ in both):
        series = []
        for (variant, scaling), theirs in both:
            if baseline(variant.method) == base:
                x, y = _curve(lambda c, law=scaling.law: float(law.predict(c)), scaling.compute)  # type: ignore[misc]
                name = f"{variant.label}, {_exponents(variant, scaling, theirs=theirs)}"
                series.append(Series(label=name, look=variant.label, x=x, y=y, published=theirs, points=False))
                series.append(Series(label="", x=scaling.compute, y=scaling.loss, published=theirs, line=False))
        panels.append(
            Panel(
                title=f"{base.removeprefix('DP ')} inside",
                xlabel="compute (FLOPs)",
                ylabel=LOSS,
                series=series,
                xlog=10,
            )
        )
    return assemble(
        "power_laws",
        "Power laws",
        panels,
        caption="Final held-out loss by compute, 6 x parameters x tokens; the legend has the fitted exponents."
        + (
            " Laws are refitted here to the paper's losses; the exponents that it prints, which the table has, stand "
            "before those."
            if published
            else ""
        ),
        needs=NEEDS,
        paper=paper,
    )


def critical_batches(group: Group, *, published: bool) -> Figure | Skipped:
    """Critical batch against tokens trained on; with the exponent of a power law where there are enough scales."""
    tokens = {point.scale: float(point.first.tokens) for point in group.points}
    found: dict[tuple[str, bool], list[Value]] = {}
    for value in values(critical_batch_table(group, everything=published), published=published):
        found.setdefault((value.label, value.published), []).append(value)
    series = []
    for (name, theirs), at in found.items():
        if len(at) < 2:
            continue
        x = [float(flavor(value.column).token_budget) if theirs else tokens[value.column] for value in at]
        y = [value.number for value in at]
        exponent = CRITICAL_BATCH_EXPONENT.get(name) if theirs else None
        if not theirs and len(at) >= LEAST_SCALES:
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
    return assemble(
        "critical_batch",
        "Critical batch size",
        [panel],
        caption="The largest batch tried whose loss is within 1 % of the best batch's; "
        "the legend has the exponents of tokens, those of the paper as it prints them.",
        needs="a method with two batch sizes at each of two scales",
        paper=not group.points,
    )


def iso_loss_ratios(measured: Scalings, published: Scalings, *, paper: bool) -> Figure | Skipped:
    """How many times a method's compute and sequential steps DP AdamW needs for the same loss."""
    panels: dict[int, list[Series]] = {0: [], 1: []}
    for scalings, theirs in ((measured, False), (published, True)):
        for variant, scaling in scalings.items():
            if variant == BASE or BASE not in scalings or (theirs and (variant.workers or 1) > 1):
                continue
            for place, series in panels.items():
                x, y = _curve(
                    lambda c, of=scaling, base=scalings[BASE], place=place: iso_loss(of, base, c)[place],  # type: ignore[misc]
                    scaling.compute,
                )
                if x:
                    series.append(Series(label=variant.label, x=x, y=y, published=theirs, points=False))
    timed = "." if panels[1] else f"; they need critical batches of DP AdamW and another at {LEAST_SCALES} scales."
    return assemble(
        "iso_loss",
        "Iso-loss compute and time",
        [
            Panel(
                title=f"{name} for the same loss",
                xlabel="compute of the method (FLOPs)",
                ylabel=f"DP AdamW's {what} / the method's",
                series=panels[place],
                xlog=10,
            )
            for place, (what, name) in enumerate((("compute", "compute"), ("steps", "sequential steps")))
        ],
        caption="What DP AdamW needs for the same loss, by the power laws, over what the method needs. "
        f"Sequential steps, which stand for time, are compute over critical batch{timed}"
        + (
            " The paper's lines are refitted here to its losses; its printed values, which are in the table, "
            "differ from them by up to 4 % in compute and a third in steps."
            if published
            else ""
        ),
        needs=f"DP AdamW and another method at {LEAST_SCALES} scales of one corpus and budget",
        paper=paper,
    )


def _exponents(variant: Variant, scaling: Scaling, *, theirs: bool) -> str:
    fitted = f"exponent {scaling.law.exponent:.4f}"
    if not theirs:
        return fitted
    printed = EXPONENT.get(variant.name)
    return (
        f"{fitted} refitted here"
        if printed is None
        else f"exponent {printed:.4f} published, {fitted[9:]} refitted here"
    )


def _curve(value: Callable[[float], float | None], compute) -> tuple[list[float], list[float]]:
    """Value at 40 computes from the smallest to the largest, where there is one."""
    pairs = [(float(c), y) for c in np.geomspace(min(compute), max(compute), 40) if (y := value(float(c))) is not None]
    return [c for c, _ in pairs], [y for _, y in pairs]
