"""Claims as a table."""

from collections.abc import Sequence

from muloco.analysis.claims.evidence import Claim
from muloco.analysis.report.cells import OWN, Listing

NOTE = (
    "Each number is computed seed by seed, from runs that start alike and see the same data; ± is half the 95 % "
    "interval of its mean (Student's t). A claim holds if all of its numbers lie below their bound with their whole "
    "interval, does not hold if one lies above it, and is undecided else."
)


def claims_listing(claims: Sequence[tuple[str, Claim]], *, own: bool = False) -> Listing:
    """A row for each claim, with the scale of its runs; by the anchor's losses, or by the workers' own."""
    rows = [
        (scale, claim.title, str(claim.verdict), claim.measured, claim.about, claim.paper) for scale, claim in claims
    ]
    headers = ("scale", "claim", "verdict", "measured", "what is measured", "paper")
    name, title = ("claims_own", f"Claims, by the {OWN} losses") if own else ("claims", "Claims")
    return Listing(name, title, headers, [[(text, "") for text in row] for row in rows], notes=[NOTE])
