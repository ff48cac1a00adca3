"""Figures as text: the ending of a figure's name tells its unit."""

from collections.abc import Mapping
from typing import Any

_SPEEDS = {
    "tb_per_s": "TB/s",
    "gb_per_s": "GB/s",
    "tokens_per_second": "tokens/s",
    "tflops": "TFLOP/s",
    "tflops_6n": "TFLOP/s by 6N",
    "mfu": "%",
    "mfu_6n": "%",
    "of_gemm": "% of GEMM",
    "share": "%",
    "seconds": "s",
    "ms": "ms",
    "microseconds": "µs",
}
"""Units of times and rates, about which a rehearsal on the CPU tells nothing, by the last words of a name."""
_UNITS = _SPEEDS | {
    "gib": "GiB",
    "mib": "MiB",
    "gb": "GB",
    "mb": "MB",
    "mflop_per_token": "MFLOP/token",
    "bits": "bits",
    "peak_n": "N at the peak",
}
"""All units. Of two endings that fit, the longer one holds. A value in % is a fraction of 1."""
_LABELS = {"mfu": ["MFU"], "mfu_6n": ["MFU by 6N"]}
"""What figures are called whose ending is more than a unit."""


def shown(figures: Mapping[str, Any], *, speeds: bool = True) -> str:
    """Returns figures as text in one line, for example `copy: 1.8 TB/s, rounds: 20,000`.

    Args:
        figures: by name, as a check returns them.
        speeds: whether times and rates are shown.
    """
    texts = []
    for name, value in figures.items():
        words = name.split("_")
        endings = ["_".join(words[first:]) for first in range(len(words))]  # the longest one first
        ending = next((ending for ending in endings if ending in _UNITS), "")
        if speeds or ending not in _SPEEDS:
            label = " ".join(words[: endings.index(ending)] + _LABELS.get(ending, []) if ending else words)
            unit = _UNITS.get(ending, "")
            number = _number(100 * value if unit.startswith("%") else value)
            texts.append((f"{label}: " if label else "") + f"{number} {unit}".rstrip())
    return ", ".join(texts)


def _number(value: Any) -> str:
    """Returns a number with 3 significant digits and all digits before the point; a count with all its digits."""
    if isinstance(value, float):
        return f"{value:.3g}" if not abs(value) >= 99.95 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
