"""The results as one figure: loss by K and by batch, and how far the workers agree."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev

from muloco.analysis.chart import Figure, Panel, Series
from muloco.analysis.claims.agreement import Agreement
from muloco.reproduce.design import OUTER, Setting
from muloco.reproduce.queue import Queue
from muloco.reproduce.results import agreements

NAME = "claims"
_LOSS = "held-out loss (nats per token)"


def figure(queue: Queue) -> Figure:
    """Panels that have nothing to show are left out."""
    muon, adamw = agreements(queue)
    panels = [
        Panel(title="loss by workers", xlabel="workers K", ylabel=_LOSS, series=_by_workers(queue), xlog=2),
        Panel(
            title="above its own DP baseline",
            xlabel="workers K",
            ylabel="loss above its own DP baseline (%)",
            series=_over_own(queue),
            xlog=2,
        ),
        Panel(
            title="K = 1, by batch",
            xlabel="batch (sequences per inner step)",
            ylabel=_LOSS,
            series=_by_batch(queue),
            xlog=2,
        ),
        *(
            Panel(
                title=f"pseudogradients: {title}",
                xlabel="workers K",
                ylabel=ylabel,
                series=[_agreement("MuLoCo", muon, of), _agreement("DiLoCo", adamw, of)],
                xlog=2,
            )
            for title, ylabel, of in (
                ("cosine to K = 1", "cosine to K = 1's pseudogradient", lambda one: one.cosine),
                ("interference gap", "interference gap (% of the workers' top)", lambda one: one.gap),
            )
        ),
    ]
    return Figure(
        name=NAME,
        title="What the claims are about",
        panels=[
            panel
            for panel in panels
            if any(isinstance(series, Series) and len(series.x) > 1 for series in panel.series)
        ],
        caption="Means over the seeds; bars: sample standard deviation. Pseudogradients: of Muon (MuLoCo) and AdamW "
        "(DiLoCo) from checkpoints of the data-parallel runs.",
    )


def _by_workers(queue: Queue) -> list[Series]:
    lines = [
        _line(method, {k: list((queue.chosen(one) or {}).values()) for k, one in _of(queue, method)})
        for method in OUTER
    ]
    found = [(one.method, queue.chosen(one)) for one in queue.design.baselines]
    return [*lines, *(Series(label=name, x=[], y=[fmean(by.values())], horizontal=True) for name, by in found if by)]


def _over_own(queue: Queue) -> list[Series]:
    lines = []
    for method, own in zip(OUTER, reversed(queue.design.baselines), strict=True):
        reference = queue.chosen(own) or {}
        over = {}
        for workers, setting in _of(queue, method):
            losses = queue.chosen(setting) or {}
            over[workers] = [100 * (losses[seed] / reference[seed] - 1) for seed in losses if seed in reference]
        lines.append(_line(method, over))
    return lines


def _by_batch(queue: Queue) -> list[Series]:
    settings = queue.design.at_batches()
    return [
        _line(
            name,
            {b: list((queue.chosen(one) or {}).values()) for (method, b), one in settings.items() if method == name},
        )
        for name in OUTER
    ]


def _agreement(label: str, found: Sequence[Agreement], of: Callable[[Agreement], Mapping[int, float]]) -> Series:
    counts = of(found[0]) if found else ()
    return _line(label, {workers: [of(one)[workers] for one in found] for workers in counts})


def _of(queue: Queue, method: str) -> list[tuple[int, Setting]]:
    """Settings by K."""
    return [(workers, one) for (name, workers), one in queue.design.by_workers.items() if name == method]


def _line(label: str, values: Mapping[int, Sequence[float]]) -> Series:
    """Means and standard deviations, where there is any value."""
    shown = sorted((x, of) for x, of in values.items() if of)
    return Series(
        label=label,
        x=[x for x, _ in shown],
        y=[fmean(of) for _, of in shown],
        spread=[stdev(of) if len(of) > 1 else None for _, of in shown],
    )
