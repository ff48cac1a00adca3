"""The profile of a cluster, which its jobs need: one TOML file, and options that override it."""

import dataclasses
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from muloco.errors import UserError, shown
from muloco.launch.placement.layout import layout
from muloco.settings.annotations import Amount, Count, Text
from muloco.settings.values import BadValue, checked, read
from muloco.suggest import did_you_mean

DEFAULT_NODE_LIMIT = 16
"""The default node limit of a sweep, unless one of its jobs needs more."""


@dataclass(frozen=True, kw_only=True)
class ClusterProfile:
    """A cluster as its user sees it. Fields that are None are left to the cluster."""

    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    nodes: Count | None = None
    """Nodes of a job. None: as many as its workers need."""
    gpus_per_node: Amount = 0
    """Number of GPUs of a node. 0: the nodes have none, and the ranks share the cores."""
    gpu_type: Text | None = None
    """Type of GPU by the cluster's name for it, such as h100, if it has several."""
    cpus_per_node: Amount | None = None
    """CPUs of a node that a job asks for. 0: the whole node, for this job alone. None: SLURM's default, one."""
    memory: Text | None = None
    """Memory of a node, as sbatch reads it: 500G; 0 is all of it. None: the partition's default."""
    time: Text | None = None
    """Time limit of a job, as sbatch reads it: 24:00:00, or 2-12:00:00. None: the partition's default."""
    signal_seconds: Count = 600
    """Seconds before the time limit at which a job saves a checkpoint and is queued again."""
    mail: Text | None = None
    """Address to which SLURM writes when a job ends, fails or is queued again."""
    modules: tuple[Text, ...] = ()
    """Modules that are loaded at the start of a job."""
    environment: tuple[Text, ...] = ()
    """Lines of bash at the start of a job, such as the one that activates the Python environment."""
    nccl: Mapping[str, str] = field(default_factory=dict)
    """Variables NCCL_* and their values."""
    container: Text | None = None
    """Words before every command on a node, such as `apptainer exec --nv /images/muloco.sif`."""
    log_folder: Text = "."
    """Folder for the output of jobs; sbatch does not create it."""
    node_limit: Count | None = None
    """Most nodes that all jobs of a sweep may hold together. None: 16, or as many as its largest job needs."""
    interface: Text | None = None
    """Network interface of the nodes that workers use, such as ib0. None: the one that leads to the other nodes."""

    def __post_init__(self) -> None:
        limit = None if self.time is None else seconds_of(self.time)
        if limit is not None and limit <= self.signal_seconds:
            raise UserError(
                f"a job with time {self.time} would be told to stop when it starts: signal_seconds is "
                f"{self.signal_seconds}; reduce it, or increase the time"
            )

    def nodes_for(self, *, workers: int, ranks: int) -> int:
        """Returns the number of nodes of a job of so many workers with so many ranks each. Raises UserError if a worker
        fits on no number of nodes, or if the job needs more than `nodes`."""
        if not self.gpus_per_node:
            return self.nodes or 1
        needed = layout(workers=workers, ranks=ranks, per_node=self.gpus_per_node).nodes
        if self.nodes is not None and self.nodes < needed:
            raise UserError(
                f"{workers} worker{'s' * (workers > 1)} of {ranks} rank{'s' * (ranks > 1)} need {needed} nodes of "
                f"{self.gpus_per_node} GPUs; the cluster profile's nodes = {self.nodes}"
            )
        return self.nodes or needed

    def nodes_together(self, largest: int) -> int:
        """The most nodes that the jobs of a sweep may hold together, if the largest of them needs `largest`."""
        return max(DEFAULT_NODE_LIMIT, largest) if self.node_limit is None else self.node_limit

    def unasked(self) -> list[str]:
        """SLURM's defaults for the fields that are not set, one phrase for each."""
        phrases = {
            "one CPU of each node (cpus_per_node)": self.cpus_per_node is None,
            "the partition's default memory (memory)": self.memory is None,
            "the partition's default time (time)": self.time is None,
            "no GPU (gpus_per_node)": self.gpus_per_node == 0,
        }
        return [phrase for phrase, left_out in phrases.items() if left_out]

    def describe(self) -> str:
        """Returns all fields that are set, in one line."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return ", ".join(f"{name} {_show(value)}" for name, value in values.items() if value not in (None, (), {}))


def load_profile(path: Path | None, **overrides: str | None) -> ClusterProfile:
    """The profile in a TOML file, or that of a cluster that needs none.

    Args:
        overrides: values that win over the file's, as words of a command line; None: the file's holds.

    Raises:
        UserError: no such file, no TOML, an unknown key, or a value of the wrong kind.
    """
    values: dict[str, Any] = {}
    where = str(path)
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"the cluster profile {path} cannot be read: {error.strerror}") from None
        except ValueError as error:  # not TOML, or not text
            raise UserError(f"the cluster profile {path} is not TOML: {error}") from None
    fields = {name: _field(where, name, _nccl if name == "nccl" else checked, value) for name, value in values.items()}
    chosen = {name: value for name, value in overrides.items() if value is not None}
    fields |= {name: _field(f"--{name}", name, read, [word]) for name, word in chosen.items()}
    return ClusterProfile(**fields)


def seconds_of(time: str) -> int:
    """Returns the seconds of a time limit as sbatch reads it: minutes[:seconds], hours:minutes:seconds, or
    days-hours[:minutes[:seconds]]. Raises UserError for any other text."""
    form = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if form is None:
        raise UserError(f"time must be such as 24:00:00 or 2-12:00:00; got {time!r}")
    days, *rest = form.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is None and len(parts) < 3:
        parts = [0, *parts]
    hours, minutes, seconds = (parts + [0, 0])[:3]
    return ((24 * int(days or 0) + hours) * 60 + minutes) * 60 + seconds


_TYPES = {
    name: get_args(annotation)[0] if type(None) in get_args(annotation) else annotation
    for name, annotation in get_type_hints(ClusterProfile, include_extras=True).items()
}
"""Annotations of the fields, without the None that neither TOML nor the command line has."""


def _field(where: str, name: str, convert: Callable[[Any, Any], Any], value: Any) -> Any:
    if name not in _TYPES:
        hint = did_you_mean(name, _TYPES, cutoff=0.5) or f"known: {', '.join(_TYPES)}"
        raise UserError(f"{where}: unknown key {name}; {hint}")
    try:
        return convert(_TYPES[name], value)
    except BadValue as error:
        raise UserError(f"{where}: {name} {error}") from None


def _nccl(annotation: Any, table: Any) -> dict[str, str]:
    if not isinstance(table, dict):
        raise BadValue(f"must be a table [nccl] of variables NCCL_*; got {shown(table)}")
    for name, value in table.items():
        if not name.startswith("NCCL_") or not name.isidentifier():
            raise BadValue(f"holds variables NCCL_*; got {name} (other ones go into environment)")
        if not isinstance(value, str | int) or isinstance(value, bool) or "\n" in str(value):
            raise BadValue(f"has {name}, which must be a text of one line or a whole number; got {shown(value)}")
    return {name: str(value) for name, value in table.items()}


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={setting}" for name, setting in value.items())
    return "; ".join(value) if isinstance(value, tuple) else str(value)
