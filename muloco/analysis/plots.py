"""The picture of one run: loss.png."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from muloco.analysis.canvas import canvas, save
from muloco.analysis.palette import COLORS, looks
from muloco.analysis.report.method import variant
from muloco.resolve import completed
from muloco.runs.folder import RunFolder, read_metrics
from muloco.settings.stored import from_dict

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
    color = _color(folder)
    syncs = sorted({line["step"] for line in lines if line.get("event") == "sync"})

    with canvas(1, 1, width=8, height=5, name=folder.loss_plot.stem) as (sheet, ((axes,),)):
        _mark_syncs(axes, syncs)
        logged = sorted({step for losses in training.values() for step in losses})
        several = len(training) > 1
        for index, losses in enumerate(training.values() if several else ()):
            label = f"training, each of {len(training)} workers" if index == 0 else None
            _line(axes, logged, losses, color=color, linewidth=0.6, alpha=0.3, label=label)
        label = "training, mean of the workers" if several else "training"
        _line(axes, logged, _mean(training), color=color, linewidth=1.4, label=label)
        if own:
            axes.plot(*zip(*own.items(), strict=True), "x", color="black", markersize=5, label=_own_label(several))
        if anchor:
            axes.plot(
                *zip(*sorted(anchor.items()), strict=True),
                "o-",
                color="black",
                linewidth=1.2,
                markersize=4,
                label=_held_out(syncs),
            )
        axes.set(xlabel="inner step", ylabel="loss (nats per token)", title=folder.root.resolve().name)
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False, loc="upper right", fontsize=8)
        save(sheet, folder.loss_plot)
    return folder.loss_plot


def _mark_syncs(axes: Any, syncs: Sequence[int]) -> None:
    """Short ticks on the lower axis; where they are too many to be told apart, their number in the legend."""
    if len(syncs) > MOST_SYNCS:
        axes.plot([], [], linestyle="none", label=f"{len(syncs)} syncs, not marked")
    elif syncs:
        height = [0] * len(syncs)
        look = {"linestyle": "none", "marker": "|", "markersize": 14, "color": "black"}
        axes.plot(syncs, height, **look, transform=axes.get_xaxis_transform(), label="sync")


def with_gaps(logged: Sequence[int], losses: Mapping[int, float]) -> list[float]:
    """A worker's losses at all steps that any worker has logged; NaN where it has none, so that its line has a gap."""
    return [losses.get(step, float("nan")) for step in logged]


def _color(folder: RunFolder) -> str:
    """The color of the run's method; without a config, that of MuLoCo."""
    if not folder.config.exists():
        return COLORS["MuLoCo"]
    stored = json.loads(folder.config.read_text(encoding="utf-8"))
    where = str(folder.config)
    name = variant(completed(from_dict(stored["resolved"], where=where), where=where)).method
    return looks([name])[name].color


def _line(axes: Any, logged: Sequence[int], losses: Mapping[int, float], **look: Any) -> None:
    """Draws dots for points without a neighbour, which a line would not show."""
    axes.plot(logged, with_gaps(logged, losses), **look)
    ends = [None, *logged, None]
    alone = [
        step
        for before, step, after in zip(ends, logged, ends[2:], strict=False)
        if step in losses and before not in losses and after not in losses
    ]
    axes.plot(alone, [losses[step] for step in alone], ".", color=look["color"], markersize=4)


def _by_worker(lines: Sequence[Mapping[str, Any]], name: str) -> dict[int, dict[int, float]]:
    """Values by worker and step."""
    found: dict[int, dict[int, float]] = defaultdict(dict)
    for line in lines:
        if name in line:
            found[line["worker"]][line["step"]] = line[name]
    return dict(sorted(found.items()))


def _mean(by_worker: Mapping[int, Mapping[int, float]]) -> dict[int, float]:
    """The mean by step, over the workers that have a value."""
    steps = sorted({step for losses in by_worker.values() for step in losses})
    return {step: fmean(losses[step] for losses in by_worker.values() if step in losses) for step in steps}


def _own_label(several: bool) -> str:
    return "held-out, own weights" + (" (mean of the workers)" if several else "")


def _held_out(syncs: Sequence[int]) -> str:
    return "held-out, anchor" if syncs else "held-out"
