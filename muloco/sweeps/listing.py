"""Tables of a sweep: its jobs before they run, and their states."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from muloco.data.sources import Embedded
from muloco.model.architectures.paper_llama.flavors import PAPER_VOCABULARY
from muloco.model.flavors import flavor
from muloco.settings.data import EMBEDDED
from muloco.sweeps.cluster import ClusterProfile
from muloco.sweeps.expand import Expansion, Job, Refused
from muloco.sweeps.state import Kind, Progress, State

COLUMNS = ("name", "nodes", "workers", "batch", "steps", "lr", "weight decay", "outer lr", "outer momentum")
STATUS = ("name", "state", "job", "step", "loss", "held-out loss", "note")
WORDS = ("name", "state", "note")
"""Columns that are text, and are aligned to the left."""
_ORIGINS = {"published": "as published", "grid": "from the grid", "rule": "by the rule"}
"""How the kinds of origins that the recipes give read in a sentence; others read as they are."""
NOTE = 40
"""The least width of a note in a table, in characters."""


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


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, width: int) -> RenderableType:
    """A table of rows whose first cell is a name and whose last one may be a note.

    If it is wider than `width`, each name is on a line of its own, its values on the next one, and then its note."""
    widest = {column: max(map(len, (column, *cells))) for column, *cells in zip(columns, *rows, strict=True)}
    if "note" in widest:
        widest["note"] = min(NOTE, widest["note"])
    if sum(size + 3 for size in widest.values()) + 1 > width:
        return _stacked(columns, rows)
    full = Table()
    for column in columns:
        full.add_column(column, justify="left" if column in WORDS else "right", overflow="fold")
    for cells in rows:
        full.add_row(*map(escape, cells))
    return full


def _stacked(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    """A table with two lines for each row, or three if it has a note. Headers of two words take two lines."""
    inner = [(at, column) for at, column in enumerate(columns) if column not in ("name", "note")]
    heads = [[*column.split(" ", 1), ""][:2] if " " in column else ["", column] for _, column in inner]
    wide = [max(map(len, (*head, *(cells[at] for cells in rows)))) for head, (at, _) in zip(heads, inner, strict=True)]

    def line(cells: Iterable[str]) -> str:
        aligned = [
            cell.ljust(size) if column in WORDS else cell.rjust(size)
            for cell, size, (_, column) in zip(cells, wide, inner, strict=True)
        ]
        return "  " + "  ".join(aligned).rstrip()

    lines: list[Text] = [Text(line(head[part] for head in heads), style="bold") for part in (0, 1)]
    for cells in rows:
        lines += [Text(cells[0], no_wrap=True, overflow="ignore"), Text(line(cells[at] for at, _ in inner))]
        if columns[-1] == "note" and cells[-1]:
            lines.append(Text(f"  {cells[-1]}"))
    return Group(*(text for text in lines if text.plain.strip()))


def origins_of(jobs: Sequence[Job]) -> list[str]:
    """Where the values of each field come from, by the word before the colon of an origin, a line a field."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for job in jobs:
        for field, origin in job.origins.items():
            kinds[field][origin.split(":")[0]] += 1
    lines = []
    for field, counts in kinds.items():
        parts = (f"{_ORIGINS.get(kind, kind)} in {n} job{'s' * (n != 1)}" for kind, n in counts.items())
        lines.append(f"{field}: {', '.join(parts)}")
    return lines


def warnings(jobs: Sequence[Job], profile: ClusterProfile) -> list[str]:
    """One line for each setting that is probably unintended, or cannot run."""
    unasked = ", ".join(profile.unasked())
    left = f"the cluster profile leaves these to SLURM's defaults: {unasked}" if unasked else None
    return [f"warning: {line}" for line in (too_little_text(jobs), _small_vocabulary(jobs), left) if line]


def too_little_text(jobs: Sequence[Job]) -> str | None:
    """The reason why jobs on the embedded corpus would fail at their start; None if none would, as far as can be
    told."""
    needed = {
        job.name: job.resolved.validation.sequences * job.resolved.training.seq_len
        for job in jobs
        if job.resolved.data.corpus == EMBEDDED and job.resolved.data.validation is None
    }
    held_out = sum(len(document.text.encode()) for document in Embedded().corpus.split("validation")) if needed else 0
    failing = [name for name, tokens in needed.items() if tokens > held_out]  # a token is a byte or more
    if not failing:
        return None
    return (
        f"{len(failing)} of {len(jobs)} jobs have the embedded corpus, which is too small for them: it holds out "
        f"{held_out:,} bytes, and {failing[0]} needs {needed[failing[0]]:,} tokens to validate on. Give a corpus with "
        "--data.corpus, and its tokenizer with --data.tokenizer"
    )


def _small_vocabulary(jobs: Sequence[Job]) -> str | None:
    """A warning if models of the paper would be trained with the embedded tokenizer on another corpus."""
    configs = [
        config
        for config in (job.resolved for job in jobs)
        if config.data.tokenizer == EMBEDDED != config.data.corpus
        and flavor(config.model.flavor).vocabulary == PAPER_VOCABULARY
    ]
    if not configs:
        return None
    return (
        f"{len(configs)} of {len(jobs)} jobs have the embedded tokenizer, with {configs[0].data.vocabulary:,} of the "
        f"{PAPER_VOCABULARY:,} entries that the model has. Give another one with --data.tokenizer"
    )


def notes(job: Job) -> list[str]:
    """Returns the origins of one job's values, with the values, and what was derived."""
    values = dict(zip(COLUMNS, row(job), strict=True))
    derived = [
        f"{field} {values[column]}: derived by muloco"
        for field, column in (("training.steps", "steps"), ("optimizer.weight_decay", "weight decay"))
        if f"--{field}" not in job.overrides
    ]
    return [f"{field}: {origin}" for field, origin in job.origins.items()] + derived


def remarks(expansion: Expansion) -> list[str]:
    """Returns a line for each reason for which points were refused, and for each job that was merged."""
    renamed = [f"merged: {theirs} is the same run as {ours}" for theirs, ours in expansion.merged if theirs != ours]
    shared = [f"{len(expansion.merged)} runs that grids share are run once"] if expansion.merged else []
    return refusals(expansion.refused) + renamed + shared


def refusals(refused: Iterable[Refused]) -> list[str]:
    """One line for each reason, with the name of the point that it concerns or the number of points."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for point in refused:
        by_reason[point.reason].append(point.name)
    return [
        f"refused: {names[0] if len(names) == 1 else f'{len(names)} jobs, the first is {names[0]}'}: {reason}"
        for reason, names in by_reason.items()
    ]


def status_table(
    jobs: Sequence[Job], states: Mapping[str, State], progress: Mapping[str, Progress], *, width: int
) -> RenderableType:
    """The states of the jobs, in lines of that width."""
    rows = []
    for job in jobs:
        state, at = states[job.name], progress[job.name]
        step = "" if at.step is None else f"{at.step}/{job.resolved.training.steps}"
        losses = _loss(at.loss), _loss(at.validation_loss)
        rows.append((job.name, state.kind.value, state.job, step, *losses, state.note))
    return table(STATUS, rows, width=width)


def counts(states: Iterable[State]) -> str:
    """How many jobs are in each state, such as `2 running, 1 failed`."""
    number = Counter(state.kind for state in states)
    return ", ".join(f"{number[kind]} {kind.value}" for kind in Kind if number[kind]) or "no jobs"


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
