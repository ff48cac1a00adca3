"""A sweep for the eye: its jobs before they run, and where they stand."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table

from muloco.data.sources import EMBEDDED
from muloco.sweeps.expand import Expansion, Job
from muloco.sweeps.state import Kind, Progress, State

COLUMNS = ("name", "nodes", "workers", "batch", "steps", "lr", "weight decay", "outer lr", "outer momentum")


def row(job: Job) -> tuple[str, ...]:
    """The key values of a job, by `COLUMNS`."""
    config = job.resolved
    ranks = f" x {config.ranks_per_worker}" if config.ranks_per_worker > 1 else ""
    outer = config.outer_optimizer if config.fault_tolerance.semi_sync_method != "none" else None
    return (
        job.name,
        str(job.nodes),
        f"{config.workers}{ranks}",
        str(config.training.global_batch_size),
        str(config.training.steps),
        f"{config.optimizer.lr:g}",
        f"{config.optimizer.weight_decay:g}",
        f"{outer.lr:g}" if outer else "",
        f"{outer.momentum:g}" if outer else "",
    )


def jobs_table(jobs: Iterable[Job]) -> Table:
    table = Table()
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "name" else "right", overflow="fold")
    for job in jobs:
        table.add_row(*row(job))
    return table


def origins_of(jobs: Sequence[Job]) -> list[str]:
    """How many values of each field are of which kind (the word before the colon of an origin), a line a field."""
    kinds: dict[str, Counter[str]] = {}
    for job in jobs:
        for field, origin in job.origins.items():
            kinds.setdefault(field, Counter())[origin.split(":")[0]] += 1
    return [f"{field}: {', '.join(f'{n} {kind}' for kind, n in found.items())}" for field, found in kinds.items()]


def hints(jobs: Sequence[Job]) -> list[str]:
    """What is probably not meant."""
    embedded = sum(job.resolved.data.corpus == EMBEDDED for job in jobs)
    told = f"data.corpus of {embedded} jobs is embedded, a few MB: --data.corpus and --data.tokenizer give another"
    return [told] if embedded else []


def notes(job: Job) -> list[str]:
    """The same for one job, with the values, and what was derived."""
    values = dict(zip(COLUMNS, row(job), strict=True))
    derived = [
        f"{field} {values[column]}: derived by muloco/training/resolve.py"
        for field, column in (("training.steps", "steps"), ("optimizer.weight_decay", "weight decay"))
        if f"--{field}" not in job.overrides
    ]
    return [f"{field}: {origin}" for field, origin in job.origins.items()] + derived


def remarks(found: Expansion) -> list[str]:
    """What was refused and what was merged, a line each."""
    refused = [f"refused: {point.name}: {point.reason}" for point in found.refused]
    renamed = [f"merged: {theirs} is the same run as {ours}" for theirs, ours in found.merged if theirs != ours]
    return refused + renamed + ([f"{len(found.merged)} runs that grids share are run once"] if found.merged else [])


def status_table(jobs: Sequence[Job], states: Mapping[str, State], progress: Mapping[str, Progress]) -> Table:
    table = Table()
    for column in ("name", "state", "job", "step", "loss", "held-out loss", "note"):
        right = column in ("job", "step", "loss", "held-out loss")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for job in jobs:
        state, at = states[job.name], progress[job.name]
        step = "" if at.step is None else f"{at.step}/{job.resolved.training.steps}"
        table.add_row(
            job.name, state.kind.value, state.job, step, _loss(at.loss), _loss(at.validation_loss), state.note
        )
    return table


def counts(states: Iterable[State]) -> str:
    """How many jobs are in each state, such as `2 running, 1 failed`."""
    found = Counter(state.kind for state in states)
    return ", ".join(f"{found[kind]} {kind.value}" for kind in Kind if found[kind]) or "no jobs"


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
