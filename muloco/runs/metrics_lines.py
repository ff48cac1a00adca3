"""Validation of lines of metrics: the values that readers rely on, and their types. This module needs only Python's
standard library."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from muloco.outer.loop.sync import STATISTICS

_IN_EVERY_LINE = ("attempt", "step", "worker")
_IN_EVENTS = {
    "state": ("state",),
    "sync": tuple(statistic.name for statistic in STATISTICS if statistic.required),
    "fault": ("time",),
    "lines_lost": ("lines",),
}
"""Values that all lines of an event have, by event."""
_OF_SYNCS = {kind: tuple(s.name for s in STATISTICS if s.kind is kind) for kind in (int, float, str)}
_WHOLE = (*_IN_EVERY_LINE, "schema", "tokens", "lines", "rank", *_OF_SYNCS[int])
_TEXTS = ("event", "state", "reason", "kind", "phase", *_OF_SYNCS[str])
_OF_TRAINING = ("loss", "lr", "grad_norm", "tokens_per_second", "data_share")
_OF_DEVICES = ("tflops", "mfu", "tflops_6n", "mfu_6n", "memory_gib")
_OF_VALIDATION = tuple(f"{prefix}validation_{unit}" for prefix in ("", "local_") for unit in ("loss", "bits_per_byte"))
_NUMBERS = ("time", "evaluation_seconds", *_OF_TRAINING, *_OF_DEVICES, *_OF_VALIDATION, *_OF_SYNCS[float])


def parsed_line(line: bytes | str) -> dict[str, Any] | None:
    """Returns the values of a line of metrics, or None for any other line."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values if _is_line(values) else None


def parsed_lines(lines: Sequence[bytes]) -> list[dict[str, Any] | None]:
    """Returns `parsed_line` of each line, with less time and memory, as lines parsed together share their keys."""
    try:
        values = json.loads(b"[%s]" % b",".join(lines))
    except (ValueError, RecursionError):
        values = []
    if len(values) != len(lines):
        return [parsed_line(line) for line in lines]
    return [value if _is_line(value) else None for value in values]


def is_complete(line: Mapping[str, Any]) -> bool:
    """Whether a line of metrics has the values that readers of its event rely on."""
    return all(name in line for name in _IN_EVENTS.get(line.get("event", ""), ()))


def _is_line(values: Any) -> bool:
    if not isinstance(values, dict) or any(name not in values for name in _IN_EVERY_LINE):
        return False
    return all(_fits(name, value) for name, value in values.items())


def _fits(name: str, value: Any) -> bool:
    """Whether a value has the type that belongs to its name. Values with unknown names may have any type."""
    if name in _WHOLE:
        return _is_number(value) and isinstance(value, int)
    if name in _TEXTS:
        return isinstance(value, str) and (name != "state" or bool(value.strip()))
    if name in _NUMBERS or name.startswith("evaluation/"):
        return _is_number(value)
    if name == "weights":
        return isinstance(value, dict) and all(w.isdecimal() and _is_number(n) for w, n in value.items())
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)
