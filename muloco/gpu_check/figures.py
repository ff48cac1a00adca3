"""Figures as text: the ending of a figure's name tells its unit."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _Unit:
    text: str
    speed: bool = False
    """Whether it is a time or a rate, which a rehearsal on the CPU tells nothing about."""
    factor: float = 1.0
    label: str = ""
    """What the figure is called, if the ending is more than a unit."""


_UNITS = {
    "tb_per_s": _Unit("TB/s", speed=True),
    "gb_per_s": _Unit("GB/s", speed=True),
    "tokens_per_second": _Unit("tokens/s", speed=True),
    "tflops": _Unit("TFLOP/s", speed=True),
    "tflops_6n": _Unit("TFLOP/s by 6N", speed=True),
    "mfu": _Unit("%", speed=True, factor=100, label="MFU"),
    "mfu_6n": _Unit("%", speed=True, factor=100, label="MFU by 6N"),
    "of_gemm": _Unit("% of GEMM", speed=True, factor=100),
    "share": _Unit("%", speed=True, factor=100),
    "seconds": _Unit("s", speed=True),
    "ms": _Unit("ms", speed=True),
    "microseconds": _Unit("µs", speed=True),
    "gib": _Unit("GiB"),
    "mib": _Unit("MiB"),
    "gb": _Unit("GB"),
    "mb": _Unit("MB"),
    "mflop_per_token": _Unit("MFLOP/token"),
    "bits": _Unit("bits"),
    "peak_n": _Unit("N at the peak"),
}
"""The units by the last words of a name. Of two endings that fit, the longer one holds."""
_NO_UNIT = _Unit("")


def shown(figures: dict[str, Any], *, speeds: bool = True) -> str:
    """Returns figures as text in one line, for example `copy: 1.8 TB/s, rounds: 20,000`.

    Args:
        figures: by name, as a check returns them.
        speeds: whether times and rates are shown.
    """
    split = {name: _split(name) for name in figures}
    return ", ".join(_one(*split[name], value) for name, value in figures.items() if speeds or not split[name][1].speed)


def _split(name: str) -> tuple[str, _Unit]:
    """Returns the label of a figure and its unit."""
    words = name.split("_")
    for first in range(len(words)):  # the longest ending first
        unit = _UNITS.get("_".join(words[first:]))
        if unit is not None:
            return " ".join([*words[:first], *filter(None, [unit.label])]), unit
    return " ".join(words), _NO_UNIT


def _one(label: str, unit: _Unit, value: Any) -> str:
    text = _number(value * unit.factor if unit.factor != 1 else value)
    return (f"{label}: " if label else "") + " ".join(filter(None, [text, unit.text]))


def _number(value: Any) -> str:
    """Returns a number with 3 significant digits and all digits before the point; a count with all its digits."""
    if isinstance(value, float):
        return f"{value:.3g}" if not abs(value) >= 99.95 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
