"""The paper's claims about final losses, on points of a report at one scale.

Where several batches or learning rates were tried, methods are compared at batches that all of them have, each at its
best learning rate. The numbers are computed with each seed that all runs compared have, and then pooled.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from muloco.analysis import published
from muloco.analysis.claims.evidence import Claim, Part, slope_by_doubling
from muloco.analysis.critical_batch import crossing
from muloco.analysis.records.method import Variant
from muloco.analysis.records.pooling import Group, at_common_batches, best

LOSSLESS = 0.3
"""% over fp32, or over one fragment, up to which the paper's figures count as lossless."""
BITS = 4
PAPER_SCALE = "150M"
"""The paper's smallest, whose numbers stand beside those of the claims about workers."""

BySeed = Mapping[int, float]
"""Final losses of a setting."""
DP_MUON, DP_ADAMW = Variant("DP Muon"), Variant("DP AdamW")


def loss_claims(group: Group, scale: str) -> list[Claim]:
    """Returns all claims about losses, including those for which runs are missing."""
    return [
        _best_of_all(group, scale),
        _below_at_every_count(group, scale),
        _gap_grows_slower(group, scale),
        _larger_critical_batch(group, scale),
        _free(
            group,
            scale,
            f"{BITS} bits are free",
            f"% that the loss with {BITS} bits an element is above that with fp32; below {LOSSLESS:g}",
            lambda variant: (
                variant.without("codec") if variant.codec and variant.codec.size == f"{BITS} bits" else None
            ),
            label=lambda variant: f"{variant.name}, {variant.rest}",
            paper="416M, K = 8, statistical: MuLoCo +0.11, DiLoCo +0.07; linear: +0.28, +0.10",
        ),
        _free(
            group,
            scale,
            "Streaming is free",
            f"% that the loss with fragments is above that with one; below {LOSSLESS:g}",
            lambda variant: (
                variant.without("fragments") if variant.fragments > 1 and not (variant.delay or variant.codec) else None
            ),
            label=lambda variant: f"{variant.name}, {variant.rest}",
            paper="416M: curves that cannot be told apart",
        ),
    ]


def _best_of_all(group: Group, scale: str) -> Claim:
    ours = Variant("MuLoCo", 1)
    others = [one for one in _plain(group, scale) if one != ours and one.method in published_methods()]
    losses = _losses(group, scale, [ours, *others])
    parts = [_part(one.name, _per_seed(_over, losses[ours], losses[one])) for one in others if ours in losses]
    best_paper = {name: by_scale[PAPER_SCALE] for name, by_scale in published.FINAL_LOSS.items()}
    paper = "; ".join(
        f"{name}: {100 * (best_paper[ours.name] / loss - 1):+.2f}"
        for name, loss in best_paper.items()
        if name != ours.name
    )
    return Claim(
        title="MuLoCo with K = 1 is the best of all",
        about="% that its loss is above that of each other method; below 0",
        parts=[part for part in parts if part],
        paper=f"{PAPER_SCALE}: {paper}",
    )


def _below_at_every_count(group: Group, scale: str) -> Claim:
    parts = []
    for workers in _counts(group, scale):
        pair = [Variant("MuLoCo", workers), Variant("DiLoCo", workers)]
        losses = _losses(group, scale, pair)
        parts.append(_part(f"K={workers}", _per_seed(_over, losses[pair[0]], losses[pair[1]])))
    paper = "; ".join(
        f"K={workers}: {100 * (by_scale[PAPER_SCALE] / published.WORKER_LOSS['DiLoCo'][workers][PAPER_SCALE] - 1):+.2f}"
        for workers, by_scale in published.WORKER_LOSS["MuLoCo"].items()
    )
    return Claim(
        title="MuLoCo is below DiLoCo at every K",
        about="% that MuLoCo's loss is above DiLoCo's; below 0",
        parts=[part for part in parts if part],
        paper=f"{PAPER_SCALE}: {paper}",
    )


def _gap_grows_slower(group: Group, scale: str) -> Claim:
    counts = _counts(group, scale)
    muloco = [Variant("MuLoCo", workers) for workers in counts]
    diloco = [Variant("DiLoCo", workers) for workers in counts]
    losses = _losses(group, scale, [DP_MUON, DP_ADAMW, *muloco, *diloco])
    complete = len(counts) > 1 and len(losses) == 2 + 2 * len(counts)

    def slower(muon: float, adamw: float, *others: float) -> float:
        mine, theirs = others[: len(counts)], others[len(counts) :]
        return slope_by_doubling(counts, [_over(loss, muon) for loss in mine]) - slope_by_doubling(
            counts, [_over(loss, adamw) for loss in theirs]
        )

    values = _per_seed(slower, *(losses[one] for one in (DP_MUON, DP_ADAMW, *muloco, *diloco))) if complete else []
    over = {
        method: [published.OVER_DP[method][workers][PAPER_SCALE] for workers in published.OVER_DP[method]]
        for method in ("MuLoCo", "DiLoCo")
    }
    paper = slope_by_doubling(list(published.OVER_DP["MuLoCo"]), over["MuLoCo"]) - slope_by_doubling(
        list(published.OVER_DP["DiLoCo"]), over["DiLoCo"]
    )
    part = _part("difference", values)
    return Claim(
        title="DiLoCo's gap grows faster with K",
        about="points a doubling of K by which MuLoCo's loss over DP Muon (in %) grows, less those by which DiLoCo's "
        "over DP AdamW does, by least squares; below 0",
        parts=[part] if part else [],
        paper=f"{PAPER_SCALE}: {paper:+.2f}",
    )


def _larger_critical_batch(group: Group, scale: str) -> Claim:
    pair = [Variant("MuLoCo", 1), Variant("DiLoCo", 1)]
    by_batch = [_by_batch(group, scale, one) for one in pair]
    batches = sorted(set(by_batch[0]) & set(by_batch[1]))
    seeds = set.intersection(*(set(found[batch]) for found in by_batch for batch in batches)) if batches else set()
    values = []
    for seed in sorted(seeds) if len(batches) > 2 else ():
        muloco, diloco = (crossing({batch: found[batch][seed] for batch in batches}) for found in by_batch)
        values.append(math.log2(diloco / muloco))
    part = _part("K=1", values)
    return Claim(
        title="MuLoCo's critical batch is larger",
        about="doublings by which DiLoCo's critical batch is larger than MuLoCo's, interpolated between the batches "
        "tried; below 0",
        parts=[part] if part else [],
        paper="3.1B: K=1: -2.00",
    )


def _free(
    group: Group,
    scale: str,
    title: str,
    about: str,
    reference: Callable[[Variant], Variant | None],
    *,
    label: Callable[[Variant], str],
    paper: str,
) -> Claim:
    """Returns the claim that the loss of each variant is no higher than that of its reference, within `LOSSLESS`."""
    parts = []
    for variant in group.variants:
        if (other := reference(variant)) is not None:
            losses = _losses(group, scale, [variant, other])
            if len(losses) == 2:
                values = _per_seed(_over, losses[variant], losses[other])
                parts.append(_part(label(variant), values, bound=LOSSLESS))
    return Claim(title=title, about=about, parts=[part for part in parts if part], paper=paper)


def published_methods() -> set[str]:
    return {name.partition(" K=")[0] for name in published.FINAL_LOSS}


def _plain(group: Group, scale: str) -> list[Variant]:
    return [one for one in group.variants if not one.rest and group.at(scale, one)]


def _counts(group: Group, scale: str) -> list[int]:
    """Returns the numbers of workers K that both methods have in the plain setting."""
    plain = _plain(group, scale)
    both = [{one.workers for one in plain if one.method == method} for method in ("MuLoCo", "DiLoCo")]
    return sorted(workers for workers in both[0] & both[1] if workers is not None)


def _losses(group: Group, scale: str, variants: Sequence[Variant]) -> dict[Variant, BySeed]:
    """Returns the losses at the best point of each variant, among the batch sizes that all variants have."""
    there = {one: points for one in variants if (points := group.at(scale, one))}
    if not there:
        return {}
    comparable = at_common_batches({one.label: points for one, points in there.items()})
    chosen = {one: best(comparable[one.label]) for one in there}
    return {one: {run.seed: run.loss for run in point.runs} for one, point in chosen.items() if point is not None}


def _by_batch(group: Group, scale: str, variant: Variant) -> dict[int, BySeed]:
    points = group.at(scale, variant)
    chosen = {batch: best([one for one in points if one.batch == batch]) for batch in {one.batch for one in points}}
    return {batch: {run.seed: run.loss for run in point.runs} for batch, point in chosen.items() if point is not None}


def _per_seed(value: Callable[..., float], *losses: BySeed) -> list[float]:
    """Computes a number from the losses of each seed that all of the settings have."""
    seeds = sorted(set.intersection(*map(set, losses)))
    return [value(*(one[seed] for one in losses)) for seed in seeds]


def _part(label: str, values: Sequence[float], bound: float = 0.0) -> Part | None:
    return Part(label=label, values=values, bound=bound) if values else None


def _over(loss: float, reference: float) -> float:
    return 100 * (loss / reference - 1)
