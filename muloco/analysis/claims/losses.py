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
from muloco.analysis.records.pooling import Group, best_at_common_batches

LOSSLESS = 0.3
"""% over fp32, or over one fragment, up to which the paper's figures count as lossless."""
BITS = 4
PAPER_SCALE = "150M"
"""The paper's smallest, whose numbers stand beside those of the claims about workers."""
DP_MUON, DP_ADAMW = Variant("DP Muon"), Variant("DP AdamW")


def loss_claims(group: Group, scale: str) -> list[Claim]:
    """Returns all claims about losses, including those for which runs are missing."""
    return [
        _best_of_all(group, scale),
        _below_at_every_count(group, scale),
        _gap_grows_slower(group, scale),
        _larger_critical_batch(group, scale),
        Claim(
            title=f"{BITS} bits are free",
            about=f"% that the loss with {BITS} bits an element is above that with fp32; below {LOSSLESS:g}",
            parts=_free(
                group,
                scale,
                "codec",
                lambda variant: variant.codec is not None and variant.codec.size == f"{BITS} bits",
            ),
            paper="416M, K = 8, statistical: MuLoCo +0.11, DiLoCo +0.07; linear: +0.28, +0.10",
        ),
        Claim(
            title="Streaming is free",
            about=f"% that the loss with fragments is above that with one; below {LOSSLESS:g}",
            parts=_free(
                group,
                scale,
                "fragments",
                lambda variant: variant.fragments > 1 and not (variant.delay or variant.codec),
            ),
            paper="416M: curves that cannot be told apart",
        ),
    ]


def _best_of_all(group: Group, scale: str) -> Claim:
    ours = Variant("MuLoCo", 1)
    methods = {name.partition(" K=")[0] for name in published.FINAL_LOSS}
    others = [variant for variant in _plain(group, scale) if variant != ours and variant.method in methods]
    losses = _losses(group, scale, [ours, *others])
    theirs = {name: by_scale[PAPER_SCALE] for name, by_scale in published.FINAL_LOSS.items()}
    return Claim(
        title="MuLoCo with K = 1 is the best of all",
        about="% that its loss is above that of each other method; below 0",
        parts=_parts({other.name: _per_seed(_over, losses, ours, other) for other in others}),
        paper=_paper({name: _over(theirs[ours.name], loss) for name, loss in theirs.items() if name != ours.name}),
    )


def _below_at_every_count(group: Group, scale: str) -> Claim:
    values = {}
    for workers in _counts(group, scale):
        pair = Variant("MuLoCo", workers), Variant("DiLoCo", workers)
        values[f"K={workers}"] = _per_seed(_over, _losses(group, scale, pair), *pair)
    theirs = published.WORKER_LOSS
    return Claim(
        title="MuLoCo is below DiLoCo at every K",
        about="% that MuLoCo's loss is above DiLoCo's; below 0",
        parts=_parts(values),
        paper=_paper(
            {
                f"K={workers}": _over(by_scale[PAPER_SCALE], theirs["DiLoCo"][workers][PAPER_SCALE])
                for workers, by_scale in theirs["MuLoCo"].items()
            }
        ),
    )


def _gap_grows_slower(group: Group, scale: str) -> Claim:
    counts = _counts(group, scale)
    muloco, diloco = ([Variant(method, workers) for workers in counts] for method in ("MuLoCo", "DiLoCo"))
    compared = [DP_MUON, DP_ADAMW, *muloco, *diloco]

    def slower(muon: float, adamw: float, *others: float) -> float:
        over = [_over(loss, muon) for loss in others[: len(counts)]]
        theirs = [_over(loss, adamw) for loss in others[len(counts) :]]
        return slope_by_doubling(dict(zip(counts, over, strict=True))) - slope_by_doubling(
            dict(zip(counts, theirs, strict=True))
        )

    values = _per_seed(slower, _losses(group, scale, compared), *compared) if len(counts) > 1 else []
    slopes = [
        slope_by_doubling({count: by_scale[PAPER_SCALE] for count, by_scale in published.OVER_DP[method].items()})
        for method in ("MuLoCo", "DiLoCo")
    ]
    return Claim(
        title="DiLoCo's gap grows faster with K",
        about="points a doubling of K by which MuLoCo's loss over DP Muon (in %) grows, less those by which DiLoCo's "
        "over DP AdamW does, by least squares; below 0",
        parts=_parts({"difference": values}),
        paper=f"{PAPER_SCALE}: {slopes[0] - slopes[1]:+.2f}",
    )


def _larger_critical_batch(group: Group, scale: str) -> Claim:
    by_batch = [
        {batch: best.point.by_seed for batch, best in group.best_by_batch(scale, Variant(method, 1)).items()}
        for method in ("MuLoCo", "DiLoCo")
    ]
    batches = sorted(set(by_batch[0]) & set(by_batch[1]))
    values = []
    if len(batches) > 2:
        for seed in sorted(set.intersection(*(set(losses[batch]) for losses in by_batch for batch in batches))):
            muloco, diloco = (crossing({batch: losses[batch][seed] for batch in batches}) for losses in by_batch)
            values.append(math.log2(diloco / muloco))
    return Claim(
        title="MuLoCo's critical batch is larger",
        about="doublings by which DiLoCo's critical batch is larger than MuLoCo's, interpolated between the batches "
        "tried; below 0",
        parts=_parts({"K=1": values}),
        paper="3.1B: K=1: -2.00",
    )


def _free(group: Group, scale: str, field: str, concerned: Callable[[Variant], bool]) -> list[Part]:
    """Returns the parts of the claim that the loss of each variant concerned is no higher than without what `field`
    says, within `LOSSLESS`."""
    values = {}
    for variant in filter(concerned, group.variants):
        pair = variant, variant.without(field)
        values[f"{variant.name}, {variant.rest}"] = _per_seed(_over, _losses(group, scale, pair), *pair)
    return _parts(values, bound=LOSSLESS)


def _plain(group: Group, scale: str) -> list[Variant]:
    return [variant for variant in group.variants if not variant.rest and group.at(scale, variant)]


def _counts(group: Group, scale: str) -> list[int]:
    """Returns the numbers of workers K that both methods have in the plain setting."""
    plain = _plain(group, scale)
    both = [{variant.workers for variant in plain if variant.method == method} for method in ("MuLoCo", "DiLoCo")]
    return sorted(workers for workers in both[0] & both[1] if workers is not None)


def _losses(group: Group, scale: str, variants: Sequence[Variant]) -> dict[Variant, dict[int, float]]:
    """Returns the losses by seed at the best point of each variant, among the batch sizes that all variants have."""
    there = {variant: points for variant in variants if (points := group.at(scale, variant))}
    return {variant: best.point.by_seed for variant, best in best_at_common_batches(there).items()}


def _per_seed(
    value: Callable[..., float], losses: Mapping[Variant, Mapping[int, float]], *variants: Variant
) -> list[float]:
    """Computes a number from the losses of the variants with each seed that all of them have; nothing if one of them is
    missing."""
    if not set(variants) <= set(losses):
        return []
    seeds = sorted(set.intersection(*(set(losses[variant]) for variant in variants)))
    return [value(*(losses[variant][seed] for variant in variants)) for seed in seeds]


def _parts(values: Mapping[str, Sequence[float]], bound: float = 0.0) -> list[Part]:
    """The parts for which there is a value, by label."""
    return [Part(label=label, values=numbers, bound=bound) for label, numbers in values.items() if numbers]


def _paper(values: Mapping[str, float]) -> str:
    """The paper's numbers at its smallest scale, by label."""
    return f"{PAPER_SCALE}: " + "; ".join(f"{label}: {value:+.2f}" for label, value in values.items())


def _over(loss: float, reference: float) -> float:
    return 100 * (loss / reference - 1)
