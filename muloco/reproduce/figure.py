"""The results as one figure: loss by K and by batch, and how far the workers agree."""

from collections.abc import Mapping
from statistics import fmean, stdev

from muloco.analysis.chart import Figure, Panel, Series
from muloco.reproduce.design import OUTER, OWN, Method
from muloco.reproduce.queue import Queue
from muloco.reproduce.results import agreements, percent_over

_LOSS = "held-out loss (nats per token)"
_WORKERS = "workers K"
Values = Mapping[tuple[Method, int], Mapping[int, float]]
"""Values by seed, by the method of a line and x."""


def figure(queue: Queue) -> Figure:
    """Returns the figure. Panels that have nothing to show are left out."""
    design = queue.design
    by_workers = {place: queue.chosen(setting) for place, setting in design.by_workers.items()}
    by_batch = {place: queue.chosen(setting) for place, setting in design.at_batches().items()}
    baselines = {setting.method: queue.chosen(setting) for setting in design.baselines}
    levels = [
        Series(label=method, x=[], y=[fmean(losses.values())], horizontal=True)
        for method, losses in baselines.items()
        if losses
    ]
    over = {place: percent_over(losses, baselines[OWN[place[0]]]) for place, losses in by_workers.items()}
    cosines, gaps = {}, {}
    for method, seeds in zip(OUTER, agreements(queue), strict=True):
        for workers in seeds[0].cosine if seeds else ():
            cosines[method, workers] = {place: seed.cosine[workers] for place, seed in enumerate(seeds)}
            gaps[method, workers] = {place: seed.gap[workers] for place, seed in enumerate(seeds)}
    cosine, gap = "cosine to K = 1's pseudogradient", "interference gap (% of the workers' top)"
    panels = [
        _panel("loss by workers", _WORKERS, _LOSS, by_workers, *levels),
        _panel("above its own DP baseline", _WORKERS, "loss above its own DP baseline (%)", over),
        _panel("K = 1, by batch", "batch (sequences per inner step)", _LOSS, by_batch),
        _panel("pseudogradients: cosine to K = 1", _WORKERS, cosine, cosines),
        _panel("pseudogradients: interference gap", _WORKERS, gap, gaps),
    ]
    return Figure(
        name="claims",
        title="What the claims are about",
        panels=[panel for panel in panels if any(isinstance(s, Series) and len(s.x) > 1 for s in panel.series)],
        caption="Means over the seeds; bars: sample standard deviation. Pseudogradients: of Muon (MuLoCo) and AdamW "
        "(DiLoCo) from checkpoints of the data-parallel runs.",
    )


def _panel(title: str, xlabel: str, ylabel: str, values: Values, *levels: Series) -> Panel:
    """Returns a panel with a line of means and standard deviations for each method, where there is any value."""
    lines = []
    for name in OUTER:
        shown = sorted((x, list(seeds.values())) for (method, x), seeds in values.items() if method == name and seeds)
        line = Series(
            label=name,
            x=[x for x, _ in shown],
            y=[fmean(seeds) for _, seeds in shown],
            spread=[stdev(seeds) if len(seeds) > 1 else None for _, seeds in shown],
        )
        lines.append(line)
    return Panel(title=title, xlabel=xlabel, ylabel=ylabel, series=[*lines, *levels], xlog=2)
