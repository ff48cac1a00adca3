"""Plots of a run."""

from collections import defaultdict
from pathlib import Path

from muloco.analysis.canvas import subplots
from muloco.training.run_folder import RunFolder, read_metrics


def plot_loss(folder: RunFolder) -> Path:
    """Draws training and held-out loss against the inner step, with the syncs, into the run folder's loss.png.

    Returns:
        the picture's path.

    Raises:
        ValueError: the run has no line of training metrics.
    """
    lines = read_metrics(folder)
    training: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for line in lines:
        if "loss" in line:
            training[line["worker"]].append((line["step"], line["loss"]))
    if not training:
        raise ValueError(f"{folder.root} holds no training metrics to plot")
    validation = sorted((line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line)
    syncs = sorted({line["step"] for line in lines if line.get("event") == "sync"})

    figure, axes = subplots(figsize=(8, 5), dpi=120)
    for index, step in enumerate(syncs):
        axes.axvline(step, color="0.85", linewidth=0.8, zorder=0, label="sync" if index == 0 else None)
    for worker, points in sorted(training.items()):
        label = f"training, worker {worker}" if len(training) <= 4 else ("training, one line a worker" * (worker == 0))
        axes.plot(*zip(*points, strict=True), linewidth=0.9, alpha=0.7, label=label or None)
    if validation:
        axes.plot(*zip(*validation, strict=True), "o-", color="black", markersize=4, label="held-out, anchor")
    axes.set(xlabel="inner step", ylabel="loss (nats a token)", title=folder.root.name)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(folder.loss_plot)
    return folder.loss_plot
