"""The picture of one run: loss.png."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from muloco.analysis.chart import Figure, Panel, Series
from muloco.analysis.draw import draw_to
from muloco.analysis.records.method import variant
from muloco.analysis.records.runs import read_config
from muloco.runs.folder import RunFolder, read_metrics

MOST_SYNCS = 40
"""The most syncs that are marked one by one."""


def plot_loss(folder: RunFolder) -> Path:
    """Draws training and held-out loss against the inner step, with the syncs, into the run folder's loss.png. The
    line of a worker that was lost has a gap.

    Returns:
        the picture's path.

    Raises:
        ValueError: the run has no line of training metrics.
    """
    lines = read_metrics(folder)
    training = _by_worker(lines, "loss")
    if not training:
        raise ValueError(f"{folder.root} holds no training metrics to plot")
    anchor = {step: loss for losses in _by_worker(lines, "validation_loss").values() for step, loss in losses.items()}
    own = _mean(_by_worker(lines, "local_validation_loss"))
    syncs = sorted({line["step"] for line in lines if line.get("event") == "sync"})
    method = variant(read_config(folder)).method if folder.config.exists() else "MuLoCo"
    logged = sorted(_mean(training))

    def trained(label: str, losses: Mapping[int, float], *, thin: bool = False) -> Series:
        """A line with gaps at the steps that other workers have logged and this one has not."""
        y = [losses.get(step, math.nan) for step in logged]
        return Series(label=label, look=method, x=logged, y=y, points=False, thin=thin)

    def held_out(label: str, losses: Mapping[int, float], *, line: bool = True, marker: str = "") -> list[Series]:
        """A series of held-out losses, if there are any."""
        x = sorted(losses)
        y = [losses[step] for step in x]
        return [Series(label=label, look="held-out", x=x, y=y, line=line, marker=marker)] if x else []

    several = len(training) > 1
    label = f"training, each of {len(training)} workers"
    series = [trained(label, losses, thin=True) for losses in training.values()] if several else []
    series.append(trained("training, mean of the workers" if several else "training", _mean(training)))
    label = "held-out, own weights" + " (mean of the workers)" * several
    series += held_out(label, own, line=False, marker="x")
    series += held_out("held-out, anchor" if syncs else "held-out", anchor)
    if len(syncs) > MOST_SYNCS:
        series.append(Series(label=f"{len(syncs)} syncs, not marked", x=[], y=[], line=False, points=False))
        syncs = []
    panel = Panel(
        title=folder.root.resolve().name,
        xlabel="inner step",
        ylabel="loss (nats per token)",
        series=series,
        ticks=syncs,
        ticks_label="sync" if syncs else "",
    )
    draw_to(Figure(name=folder.loss_plot.stem, title="Loss", panels=[panel], panel_size=(7.2, 4.4)), folder.loss_plot)
    return folder.loss_plot


def _by_worker(lines: Sequence[Mapping[str, Any]], name: str) -> dict[int, dict[int, float]]:
    """Values by worker and step."""
    values: dict[int, dict[int, float]] = defaultdict(dict)
    for line in lines:
        if name in line:
            values[line["worker"]][line["step"]] = line[name]
    return dict(sorted(values.items()))


def _mean(by_worker: Mapping[int, Mapping[int, float]]) -> dict[int, float]:
    """The mean by step, over the workers that have a value."""
    steps = sorted({step for losses in by_worker.values() for step in losses})
    return {step: fmean(losses[step] for losses in by_worker.values() if step in losses) for step in steps}
