"""Names of jobs, from what tells the points of a grid apart."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

LABELS = {
    "model.flavor": "",
    "training.global_batch_size": "B",
    "optimizer.lr": "lr",
    "optimizer.weight_decay": "wd",
    "fault_tolerance.group_size": "K",
    "fault_tolerance.sync_steps": "H",
    "fault_tolerance.num_fragments": "J",
    "fault_tolerance.fragment_sync_delay": "tau",
    "outer_optimizer.lr": "outer-lr",
    "outer_optimizer.momentum": "outer-momentum",
    "compression.kind": "",
    "compression.bits": "bits",
    "compression.granularity": "",
    "compression.fraction": "keep",
    "compression.error_feedback": "feedback",
    "run.seed": "seed",
}
LONGEST_VALUE = 40
_ABSENT = object()


def job_names(prefix: str, points: Sequence[Mapping[str, Any]], *, named: Sequence[str] = ()) -> list[str]:
    """A name for each point: the prefix and the fields that tell it apart, such as `muloco_416M_K8_lr0.0625`.

    A field is in the names if it differs between points that agree in all fields before it; so one that follows from
    others, such as the local batch from the flavor, is left out. `named` ones are in them in any case. Equal points get
    equal names."""
    telling = _telling(points, named)
    labels = {field: LABELS.get(field, _label(field, telling)) for field in telling}
    return [
        "_".join([prefix, *(_part(labels[field], point[field]) for field in telling if point.get(field) is not None)])
        for point in points
    ]


def _telling(points: Sequence[Mapping[str, Any]], named: Sequence[str]) -> list[str]:
    telling: list[str] = []
    for field in dict.fromkeys(field for point in points for field in point):
        values: dict[tuple, set] = {}
        for point in points:
            alike = tuple(repr(point.get(name, _ABSENT)) for name in telling)
            values.setdefault(alike, set()).add(repr(point.get(field, _ABSENT)))
        if field in named or any(len(differing) > 1 for differing in values.values()):
            telling.append(field)
    return telling


def _label(field: str, telling: Sequence[str]) -> str:
    """The last part of a field's name, or all of it where another field's ends alike."""
    last = field.rsplit(".", 1)[-1]
    alone = sum(name.rsplit(".", 1)[-1] == last for name in telling) == 1
    return (last if alone else field) + "-"


def _part(label: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"{'' if value else 'no-'}{label.rstrip('-')}"
    if isinstance(value, float):
        short = f"{value:g}" if float(f"{value:g}") == value else repr(value)
        return label + short.replace("e+", "e")
    text = "-".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
    slug = re.sub(r"[^A-Za-z0-9.-]+", "-", text)
    if slug != text or len(slug) > LONGEST_VALUE:
        slug = f"{slug[:LONGEST_VALUE]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
    return label + slug
