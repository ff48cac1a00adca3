"""All parts and rows. This module imports neither torch nor a check."""

from collections.abc import Sequence

from muloco.errors import UserError
from muloco.gpu_check.parts.by_hand import BY_HAND
from muloco.gpu_check.parts.components import SMALL, TESTS
from muloco.gpu_check.parts.speed import CODECS, MUON, SPEED
from muloco.gpu_check.parts.training import GLOO, LAPTOP, SEVERAL
from muloco.gpu_check.row import Part, Row
from muloco.suggest import did_you_mean

PARTS: tuple[Part, ...] = (SMALL, GLOO, LAPTOP, TESTS, SEVERAL, MUON, CODECS, SPEED, BY_HAND)
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
        if reason := ROWS[name].by_hand:
            raise UserError(f"--rows: {name} can only be checked by hand: {reason}")
    chosen = {row.name for part in PARTS if part.name in parts for row in part.rows} | set(rows)
    if not parts and not rows:
        chosen = set(ROWS)
    for name in list(chosen):
        while name := ROWS[name].after:
            chosen.add(name)
    found = [row for row in ROWS.values() if row.name in chosen and row.module]
    if not found:
        raise UserError(f"--parts: {parts[0]} has no row that runs by itself; docs/untested-on-gpu.md lists them")
    return found


def _check_names(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known, cutoff=0.5) or f"there are {', '.join(known)}"
            raise UserError(f"{option}: there is no {name!r}; {hint}")
