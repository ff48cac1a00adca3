"""The results: the runs as a report reads them, the claims, and the tables of the studies."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean, stdev

from muloco.analysis.claims.agreement import Agreement, agreement_claims, read_agreement
from muloco.analysis.claims.evidence import Part, claims_table
from muloco.analysis.claims.losses import loss_claims
from muloco.analysis.critical_batch import crossing
from muloco.analysis.pseudogradients.tables import TABLE
from muloco.analysis.records.pooling import Group, groups, pool
from muloco.analysis.records.runs import read_run
from muloco.analysis.table import TextTable
from muloco.errors import UserError
from muloco.reproduce.design import FLAVOR, OUTER, OWN, SEEDS, Setting, Study
from muloco.reproduce.queue import Queue

NOTHING = "not run"


def run_folders(queue: Queue, settings: Iterable[Setting]) -> list[Path]:
    """Returns the folders of the finished runs of some settings."""
    chosen = set(settings)
    return [job.run_folder for job in queue.runs.jobs(trial for trial in queue.losses if trial.setting in chosen)]


def claims(queue: Queue) -> list[TextTable]:
    """Returns all of the paper's claims with their evidence; those about losses a second time by the workers' own
    losses, as the paper measures them, where these were logged."""
    found = group(queue, queue.design.claimed)
    both = [*loss_claims(found, FLAVOR), *agreement_claims(*agreements(queue))]
    tables = [claims_table([(FLAVOR, claim) for claim in both])]
    if found.has_own_losses:
        own = loss_claims(found.as_published(only=True), FLAVOR)
        tables.append(claims_table([(FLAVOR, claim) for claim in own], own=True))
    return tables


def group(queue: Queue, settings: Iterable[Setting]) -> Group:
    """Returns the runs of some settings that are there.

    Raises:
        UserError: they are of different corpora, as when Python was replaced in between.
    """
    found = [read_run(folder)[0] for folder in run_folders(queue, settings)]
    points, _ = pool([run for run in found if run is not None])
    of_corpora = groups(points) or [Group("", ())]
    if len(of_corpora) > 1:
        titles = "; ".join(corpus.title for corpus in of_corpora)
        raise UserError(f"{queue.folder} has runs of different corpora; choose another --out: {titles}")
    return of_corpora[0]


def agreements(queue: Queue) -> tuple[list[Agreement], list[Agreement]]:
    """Returns how workers agree at the checkpoints of DP Muon and of DP AdamW, for each seed that is there."""
    muon, adamw = [], []
    for seed, folder in queue.studies.items():
        names = queue.baselines(seed)
        if names and (folder / TABLE).exists():
            found = [read_agreement(folder, f"{name}, step {queue.design.size.checkpoint_step}") for name in names]
            adamw.append(found[0])
            muon.append(found[1])
    return muon, adamw


def final_losses(queue: Queue) -> TextTable:
    """Returns the table of the main comparison: loss, and % above its own data-parallel baseline."""
    baselines = {setting.method: setting for setting in queue.design.baselines}
    rows = [(method, "", *_cells(queue, setting)) for method, setting in baselines.items()]
    for (method, workers), setting in queue.design.by_workers.items():
        rows.append((method, str(workers), *_cells(queue, setting, baselines[OWN[method]])))
    headers = ("method", "K", "inner lr", "held-out loss", "% above own DP")
    return TextTable("final_loss", "Final loss by workers", headers, rows)


def by_batch(queue: Queue) -> TextTable:
    """Returns the table for K = 1: loss by batch, and the critical batch between the batches."""
    settings = queue.design.at_batches()
    batches = sorted({batch for _, batch in settings})
    rows = []
    for method in OUTER:
        found = {batch: queue.chosen(settings[method, batch]) for batch in batches}
        seeds = set.intersection(*map(set, found.values()))
        critical = [crossing({batch: found[batch][seed] for batch in batches}) for seed in sorted(seeds)]
        cells = [
            f"{pooled(found[batch])}, lr {_rate(queue, settings[method, batch])}" if found[batch] else NOTHING
            for batch in batches
        ]
        rows.append((f"{method} K=1", *cells, f"{fmean(critical):.1f}" if critical else NOTHING))
    headers = ("method", *(f"{batch} sequences" for batch in batches), "critical batch")
    note = "Critical batch: the largest whose loss is within 1 % of the best, interpolated, the mean over the seeds."
    return TextTable("batches", "Final loss by batch", headers, rows, notes=[note])


def searches(queue: Queue) -> TextTable:
    """Returns the table of all inner learning rates that were searched, with the first seed."""
    rows = []
    for setting in queue.design.settings:
        tried = sorted(
            (trial.lr, loss)
            for trial, loss in queue.losses.items()
            if (trial.setting, trial.seed) == (setting, SEEDS[0]) and not setting.like
        )
        if tried:
            best = queue.rate(setting)
            shown = ", ".join(f"{lr:g}: {loss:.4f}{'*' * (lr == best)}" for lr, loss in tried)
            edge = "yes" if best in (tried[0][0], tried[-1][0]) else ""
            rows.append((setting.name, shown, edge))
    headers = ("setting", "loss by inner learning rate (* the best)", "at the edge")
    return TextTable("searches", f"Searches for inner learning rates, seed {SEEDS[0]}", headers, rows)


def study_table(queue: Queue, study: Study) -> TextTable:
    """Returns the table of a study: loss, and % above that of the first row."""
    (first, reference), *others = study.rows.items()
    rows = [(first, *_cells(queue, reference))]
    rows += [(label, *_cells(queue, setting, reference)) for label, setting in others]
    name = study.title.lower().replace(" ", "-")
    headers = ("", "inner lr", "held-out loss", f"% over {first}")
    return TextTable(name, study.title, headers, rows, notes=[study.question])


def _cells(queue: Queue, setting: Setting, reference: Setting | None = None) -> tuple[str, str, str]:
    """Returns the inner learning rate, the loss and, with a reference, by how much it is above that."""
    losses = queue.chosen(setting)
    over = "" if reference is None else compared(losses, queue.chosen(reference))
    return _rate(queue, setting), pooled(losses), over


def pooled(losses: Mapping[int, float]) -> str:
    """Returns the mean and the sample standard deviation over the seeds."""
    if not losses:
        return NOTHING
    spread = f" ± {stdev(losses.values()):.4f}" if len(losses) > 1 else ""
    return f"{fmean(losses.values()):.4f}{spread} (n={len(losses)})"


def percent_over(losses: Mapping[int, float], reference: Mapping[int, float]) -> dict[int, float]:
    """Returns by how many % losses are above a reference, for each seed that both have."""
    return {seed: 100 * (losses[seed] / reference[seed] - 1) for seed in sorted(losses.keys() & reference.keys())}


def compared(losses: Mapping[int, float], reference: Mapping[int, float]) -> str:
    """Returns the mean of `percent_over` with its 95 % interval."""
    over = percent_over(losses, reference)
    if not over:
        return NOTHING
    part = Part(label="", values=list(over.values()))
    return f"{part.mean:+.2f}" + ("" if part.margin is None else f" ± {part.margin:.2f}")


def _rate(queue: Queue, setting: Setting) -> str:
    rate = queue.rate(setting)
    return NOTHING if rate is None else f"{rate:g}"
