"""From a sweep to its jobs: every point is checked and completed as `muloco train` would do it."""

import copy
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muloco.errors import UserError
from muloco.resolve import resolve
from muloco.settings.config import Config, ResolvedConfig
from muloco.settings.fields import flatten, set_field
from muloco.settings.load import CHECKOUT, SHIPPED, find_config, load_config
from muloco.sweeps.cluster import ClusterProfile
from muloco.sweeps.names import job_names
from muloco.sweeps.sweep import Grid, Point, Sweep, origins, plain
from muloco.sweeps.words import checked_point, given_by, words_of

OUTPUTS = CHECKOUT / "outputs" if SHIPPED == CHECKOUT else Path("outputs")
"""The default folder for run folders. In a checkout it is the same from wherever a sweep is asked for; without one, it
is in the current folder."""
_PATHS = ("data.corpus", "data.validation", "data.tokenizer")  # resolve makes them absolute


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run of a sweep."""

    name: str
    """Name of the job, of its script and of its run folder."""
    config: Path
    """The config file."""
    overrides: tuple[str, ...]
    """Command-line words on top of it."""
    resolved: ResolvedConfig
    nodes: int
    origins: Mapping[str, str]
    """Origins of the values, by field."""

    @property
    def run_folder(self) -> Path:
        return Path(self.resolved.run.outputs) / self.name


@dataclass(frozen=True)
class Refused:
    """A point that cannot be run."""

    name: str
    reason: str


@dataclass(frozen=True)
class Expansion:
    """The jobs of a sweep, and the points that make none."""

    jobs: list[Job]
    refused: list[Refused]
    merged: list[tuple[str, str]]
    """Jobs that are run under another grid's name: (theirs, that one)."""


def expand(sweep: Sweep, *, overrides: Sequence[str] = (), profile: ClusterProfile) -> Expansion:
    """The jobs of a sweep, in its order.

    Args:
        overrides: `--section.field value` words that apply to all jobs, on top of their own values.
        profile: of the cluster, for the nodes that a job needs.

    Raises:
        UserError: unusable `overrides`. A point that is unusable is not raised but listed, with its reason; so is a
            point that is the same run as another one of its grid. Where grids share a run, the first one has it.
    """
    everywhere = given_by(overrides)
    if "run.name" in everywhere:
        raise UserError("run.name is given by the sweep, which names its jobs by what differs between them")
    everywhere["run.outputs"] = str(Path(everywhere.get("run.outputs", OUTPUTS)).absolute())
    expansion = Expansion(jobs=[], refused=[], merged=[])
    load = functools.cache(load_config)
    by_name: dict[str, Job] = {}
    by_run: dict[str, tuple[Job, Grid]] = {}
    for grid in sweep.grids:
        for name, job in _expand(grid, everywhere, profile, load):
            if isinstance(job, UserError):
                expansion.refused.append(Refused(name, str(job)))
                continue
            same, owner = by_run.setdefault(_identity(job.resolved), (job, grid))
            if same is not job and owner is grid:
                expansion.refused.append(Refused(name, f"the same run as {same.name}, after all derived values"))
            elif same is not job:
                expansion.merged.append((name, same.name))
            elif by_name.setdefault(name, job) is not job:
                expansion.refused.append(Refused(name, "another grid has a job of this name that is another run"))
            else:
                expansion.jobs.append(job)
    return expansion


def _expand(
    grid: Grid, everywhere: Mapping[str, Any], profile: ClusterProfile, load: Callable[[str], Config]
) -> Iterator[tuple[str, Job | UserError]]:
    """Name and job of every point of a grid, or the reason why there is none."""
    names = job_names(grid.name, [plain(point) for point in grid.points], named=grid.named)
    for name, point in zip(names, grid.points, strict=True):
        try:
            file, base = find_config(grid.config), load(grid.config)
            values = checked_point({**plain(point), **everywhere})
            yield name, _job(name, file, base, values, point, profile)
        except UserError as error:
            yield name, error


def _job(name: str, file: Path, base: Config, values: dict[str, Any], point: Point, profile: ClusterProfile) -> Job:
    chosen = copy.deepcopy(base)
    for field, value in (values | {"run.name": name}).items():
        set_field(chosen, field, value)
    config = resolve(chosen)
    fields = flatten(config)
    values |= {field: fields[field] for field in _PATHS if field in values}
    own = {field: value for field, value in values.items() if field != "run.outputs"}
    return Job(
        name=name,
        config=file,
        overrides=tuple(word for field, value in own.items() for word in words_of(field, value)),
        resolved=config,
        nodes=profile.nodes_for(workers=config.worker_processes, ranks=config.ranks_per_worker),
        origins={field: origin for field, origin in origins(point).items() if plain(point)[field] == values[field]},
    )


def _identity(config: Config) -> str:
    """Equal for configs that describe the same run."""
    return json.dumps({field: value for field, value in flatten(config).items() if field != "run.name"})
