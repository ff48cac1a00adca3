"""The paper's claims about pseudogradients (arXiv 2505.23725), on what `muloco analyze pseudogradients` has written."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from muloco.analysis.claims.evidence import Claim, Part, slope_by_doubling
from muloco.analysis.published import COSINE, INTERFERENCE_GAP

TABLE = "matrices.csv"
"""The file of a study that has its figures."""


@dataclass(frozen=True)
class Agreement:
    """How the workers of one seed agree, by K: means over the matrices."""

    cosine: Mapping[int, float]
    """Cosine of the angle between the mean pseudogradient of K workers and that of one worker."""
    gap: Mapping[int, float]
    """Interference gap in %."""


def read_agreement(folder: Path, checkpoint: str) -> Agreement:
    """Reads the agreement of the workers at one checkpoint of a study.

    Args:
        folder: what `muloco analyze pseudogradients` has written.
        checkpoint: its name there, such as `tiny-muon, step 100`.

    Raises:
        ValueError: the study is of other checkpoints.
    """
    cosines, gaps = defaultdict(list), defaultdict(list)
    with (folder / TABLE).open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if line["checkpoint"] == checkpoint and line["workers"] != "1":
                cosines[int(line["workers"])].append(float(line["cosine"]))
                gaps[int(line["workers"])].append(100 * float(line["gap"]))
    if not cosines:
        raise ValueError(f"{folder / TABLE} has nothing of {checkpoint}")
    return Agreement(
        cosine={workers: fmean(values) for workers, values in cosines.items()},
        gap={workers: fmean(values) for workers, values in gaps.items()},
    )


def agreement_claims(muon: Sequence[Agreement], adamw: Sequence[Agreement]) -> list[Claim]:
    """Returns the claims about the agreement of workers.

    Args:
        muon: studies of DP Muon, one for each seed.
        adamw: studies of DP AdamW with the same seeds in the same order, and the same K.
    """
    counts = sorted(muon[0].cosine) if muon else []
    pairs = list(zip(muon, adamw, strict=True))
    ordering = [
        Part(label=f"K={count}", values=[b.cosine[count] - a.cosine[count] for a, b in pairs]) for count in counts
    ]
    trends = []
    if len(counts) > 1:
        trends = [
            Part(label="DP AdamW, negated", values=[-slope_by_doubling(agreement.gap) for agreement in adamw]),
            Part(label="DP Muon", values=[slope_by_doubling(agreement.gap) for agreement in muon]),
        ]
    published = [f"K={count}: {COSINE['AdamW'][count] - COSINE['Muon'][count]:+.3f}" for count in COSINE["Muon"]]
    return [
        Claim(
            title="Muon's workers agree better than AdamW's",
            about="cosine of the mean pseudogradient of K workers to that of one, AdamW's less Muon's; below 0",
            parts=ordering,
            paper="416M: " + "; ".join(published),
            form="+.3f",
        ),
        Claim(
            title="The interference gap grows with K for AdamW and falls for Muon",
            about="points of the gap (in %) a doubling of K, AdamW's negated; below 0",
            parts=trends,
            paper="416M, its own definition: "
            f"DP AdamW, negated: {-slope_by_doubling(INTERFERENCE_GAP['DiLoCo']):+.1f}; "
            f"DP Muon: {slope_by_doubling(INTERFERENCE_GAP['MuLoCo']):+.1f}",
            form="+.1f",
        ),
    ]
