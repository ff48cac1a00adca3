"""All parts and rows. This module imports neither torch nor a check."""

from collections.abc import Sequence

from muloco.errors import UserError
from muloco.gpu_check.parts import by_hand, codecs, gloo, laptop, muon, several, small, speed, tests
from muloco.gpu_check.row import Part, Row
from muloco.suggest import did_you_mean

PARTS: tuple[Part, ...] = tuple(
    module.PART for module in (small, gloo, laptop, tests, several, muon, codecs, speed, by_hand)
)
ROWS: dict[str, Row] = {row.name: row for part in PARTS for row in part.rows}
"""All rows by name, the most important first: where time runs out, the last rows are left out."""


def select(parts: Sequence[str] = (), rows: Sequence[str] = ()) -> list[Row]:
    """Returns the rows that a call of `muloco check-gpu` runs, in the order of `ROWS`.

    Rows on which a chosen row depends are added, and rows that only a person can check are left out.

    Args:
        parts: names of parts whose rows are chosen.
        rows: names of rows that are chosen in addition. Without parts and rows, all rows are chosen.

    Raises:
        UserError: a name is unknown, or what it names can only be checked by hand.
    """
    _check_names("--parts", parts, [part.name for part in PARTS])
    _check_names("--rows", rows, list(ROWS))
    for name in rows:
        if not ROWS[name].check:
            raise UserError(f"--rows: {name} can only be checked by hand: {ROWS[name].by_hand}")
    if list(parts) == [by_hand.PART.name] and not rows:
        raise UserError(
            f"--parts: {by_hand.PART.name} has no row that runs by itself; docs/untested-on-gpu.md lists them"
        )
    chosen = {row.name for part in PARTS if part.name in parts for row in part.rows} | set(rows)
    if not parts and not rows:
        chosen = set(ROWS)
    waiting = list(chosen)
    while waiting:
        needed = set(ROWS[waiting.pop()].after) - chosen
        chosen |= needed
        waiting += needed
    return [row for row in ROWS.values() if row.name in chosen and row.check]


def _check_names(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known, cutoff=0.5) or f"there are {', '.join(known)}"
            raise UserError(f"{option}: there is no {name!r}; {hint}")
