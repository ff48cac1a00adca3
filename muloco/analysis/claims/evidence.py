"""A claim, the numbers that it is about, and its verdict; claims as a table."""

import enum
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from muloco.analysis.table import OWN, TextTable

CONFIDENCE = 0.95
NOTE = (
    "Each number is computed seed by seed, from runs that start alike and see the same data; ± is half the 95 % "
    "interval of its mean (Student's t). A claim holds if all of its numbers lie below their bound with their whole "
    "interval, does not hold if one lies above it, and is undecided else."
)


class Verdict(enum.StrEnum):
    HOLDS = "holds"
    FAILS = "does not hold"
    UNDECIDED = "undecided"
    MISSING = "not run"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A number of which the claim is that it lies below a bound, measured once with each seed.

    Each value compares runs of one seed, which start alike and see the same data in the same order; so what the seed
    alone does to all of them is not in the spread.
    """

    label: str
    values: Sequence[float]
    bound: float = 0.0

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def margin(self) -> float | None:
        """Returns half the 95 % interval of the mean by Student's t; None with one seed."""
        if len(self.values) < 2:
            return None
        from scipy.stats import t  # takes a second to import

        deviation = statistics.stdev(self.values)
        return float(t.ppf((1 + CONFIDENCE) / 2, len(self.values) - 1)) * deviation / math.sqrt(len(self.values))

    @property
    def verdict(self) -> Verdict:
        """Returns the verdict: undecided if the bound lies in the interval, or with one seed."""
        if self.margin is None:
            return Verdict.UNDECIDED
        if self.mean + self.margin < self.bound:
            return Verdict.HOLDS
        return Verdict.FAILS if self.mean - self.margin > self.bound else Verdict.UNDECIDED

    def describe(self, form: str = "+.2f") -> str:
        """Returns a line such as `K=2: -1.20 ± 0.31 (n=3)`, with `undecided` or `does not hold` where that is the
        verdict."""
        spread = "" if self.margin is None else f" ± {self.margin:{form.lstrip('+')}}"
        verdict = "" if self.verdict == Verdict.HOLDS else f", {self.verdict}"
        return f"{self.label}: {self.mean:{form}}{spread} (n={len(self.values)}{verdict})"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement that holds if all of its parts do."""

    title: str
    about: str
    """Describes the numbers and their bound."""
    parts: Sequence[Part]
    paper: str = ""
    """The values that the paper has for the same numbers."""
    form: str = "+.2f"
    """Format in which the numbers are printed."""

    @property
    def verdict(self) -> Verdict:
        verdicts = {part.verdict for part in self.parts}
        order = (Verdict.FAILS, Verdict.UNDECIDED, Verdict.HOLDS)
        return next((verdict for verdict in order if verdict in verdicts), Verdict.MISSING)

    @property
    def measured(self) -> str:
        return "; ".join(part.describe(self.form) for part in self.parts)


def slope_by_doubling(by_count: Mapping[int, float]) -> float:
    """Returns how much the values rise when a count doubles: the slope of the least-squares line through the values
    against log2 of the counts."""
    return statistics.linear_regression([math.log2(count) for count in by_count], list(by_count.values())).slope


def claims_table(claims: Sequence[tuple[str, Claim]], *, own: bool = False) -> TextTable:
    """Returns a table with a row for each claim and the scale of its runs.

    Args:
        claims: with their scales.
        own: whether the claims are about the workers' own losses, instead of the anchor's.
    """
    headers = ("scale", "claim", "verdict", "measured", "what is measured", "paper")
    rows = [
        (scale, claim.title, str(claim.verdict), claim.measured, claim.about, claim.paper) for scale, claim in claims
    ]
    name, title = ("claims_own", f"Claims, by the {OWN} losses") if own else ("claims", "Claims")
    return TextTable(name, title, headers, rows, notes=[NOTE])
