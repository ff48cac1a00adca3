"""One style per method in all figures: its color, a shade and a marker for each K, and a dash for other settings."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

COLORS = {
    "MuLoCo": "#0b6e4f",
    "DiLoCo": "#c8553d",
    "DP Muon": "#2f5d9b",
    "DP AdamW": "#d99a00",
    "GPA": "#7d4ea3",
    "local SGD": "#3aa7a3",
    "held-out": "#000000",
}
"""Colors by method, and that of held-out losses beside training losses; a name that begins with one of these has its
color."""
_OTHERS = ("#8a5a35", "#c2437d", "#5f7d1f", "#444444")
_DASHES: tuple[str | tuple, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1.2)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (5, 1.5, 1, 1, 1, 1.5)),
)
_MARKERS = {None: "o", 1: "o", 2: "s", 4: "^", 8: "D", 16: "v", 32: "P"}
_BASE_WORKERS = 8
"""The K whose shade is the method's color itself."""
_STEP = 0.15
"""Share of white or black by which a doubling of K changes the shade."""
_MOST = 0.6


@dataclass(frozen=True)
class Look:
    """The color, marker and dash of one line in a figure."""

    color: str
    marker: str
    dash: str | tuple
    """A line style of Matplotlib."""


def looks(names: Iterable[str]) -> Mapping[str, Look]:
    """The styles of all lines of one figure.

    Args:
        names: such as `MuLoCo K=8, J=3`: method, K if there is one, and what else differs. Names with the same method
            have one color, and with the same rest one dash.
    """
    parts = {name: _parts(name) for name in dict.fromkeys(names)}
    others = list(dict.fromkeys(method for method, _, _ in parts.values() if method not in COLORS))
    rests: dict[str, list[str]] = {}
    for method, _, rest in parts.values():
        if rest not in rests.setdefault(method, []):
            rests[method].append(rest)
    return {
        name: Look(
            color=_shade(COLORS.get(method) or _OTHERS[others.index(method) % len(_OTHERS)], workers),
            marker=_MARKERS.get(workers, "X"),
            dash=_DASHES[rests[method].index(rest) % len(_DASHES)],
        )
        for name, (method, workers, rest) in parts.items()
    }


def _parts(name: str) -> tuple[str, int | None, str]:
    """Splits a name into method, K and the rest."""
    match = re.fullmatch(r"(.+?)(?: K=(\d+))?(?:, ([^()]*))?", name)
    assert match is not None, name
    method, workers, rest = match.groups(default="")
    known = max((method for method in COLORS if name.startswith(method)), key=len, default=None)
    if known is not None and known != method:
        method, rest = known, f"{method.removeprefix(known)} {rest}".strip()
    return method, int(workers) if workers else None, rest


def _shade(color: str, workers: int | None) -> str:
    """The shade of a color: lighter with fewer workers than `_BASE_WORKERS`, darker with more."""
    doublings = 0.0 if workers is None else math.log2(workers / _BASE_WORKERS)
    towards, share = (0, _STEP * doublings) if doublings > 0 else (255, -_STEP * doublings)
    share = min(share, _MOST)
    parts = (int(color[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round((1 - share) * part + share * towards):02x}" for part in parts)
