"""The tasks that are left, given what is done: runs, and the studies of pseudogradients that need them."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from muloco.analysis.pseudogradients.tables import TABLE
from muloco.reproduce.design import SEEDS, SYNC_STEPS, Design, Setting
from muloco.reproduce.runs import Runs
from muloco.reproduce.search import Losses, Trial, best_rate, wanted
from muloco.sweeps.local import Task, training

STUDIED = ("2", "4", "8")
"""K of the studies of pseudogradients, beside 1."""


class Queue:
    """The tasks of a design; asked for again and again while they are done."""

    def __init__(self, design: Design, folder: Path):
        self.design, self.folder = design, folder
        self.runs = Runs(design.size, folder / "runs")
        self.losses: Losses = {}
        self.studies = {seed: folder / "pseudogradients" / f"seed-{seed}" for seed in SEEDS}
        """Folders of the studies of pseudogradients, by seed."""

    def tasks(self) -> list[Task]:
        """Returns the tasks that can be run now, in order: first those for the claims, then those for the studies
        beyond them."""
        trials = self._trials()
        claimed = [trial for trial in trials if trial.setting in self.design.claimed]
        others = [trial for trial in trials if trial.setting not in self.design.claimed]
        first, then = (list(map(training, self.runs.jobs(part))) for part in (claimed, others))
        return [*first, *self._pseudogradients(), *then]

    def remove_broken_studies(self) -> None:
        """Removes the folders of interrupted studies, which cannot be resumed."""
        for study in self.studies.values():
            if study.exists() and not (study / TABLE).exists():
                shutil.rmtree(study)

    @property
    def studies_left(self) -> int:
        return sum(not (study / TABLE).exists() for study in self.studies.values())

    def chosen(self, setting: Setting) -> Mapping[int, float]:
        """Returns the losses by seed at the inner learning rate that was found for a setting."""
        rate = self.rate(setting)
        return {trial.seed: loss for trial, loss in self.losses.items() if (trial.setting, trial.lr) == (setting, rate)}

    def rate(self, setting: Setting) -> float | None:
        """Returns the inner learning rate that was found for a setting; None while there is none."""
        return best_rate(setting, self.losses, self.design.size.extensions)

    def baselines(self, seed: int) -> list[str]:
        """Returns the names of the data-parallel runs whose checkpoints are studied; none before they are there."""
        rates = {setting: self.rate(setting) for setting in self.design.baselines}
        trials = [Trial(setting, rate, seed) for setting, rate in rates.items() if rate is not None]
        there = [trial for trial in trials if trial in self.losses]
        return [job.name for job in self.runs.jobs(there)] if len(there) == len(rates) else []

    def _trials(self) -> list[Trial]:
        """Finds the runs that are there, and returns those that are wanted."""
        while True:
            trials = [
                trial
                for stage in self.design.stages
                for trial in wanted(stage, self.losses, self.design.size.extensions)
            ]
            there = self.runs.losses(trials)
            if not there:
                return trials
            self.losses = {**self.losses, **there}

    def _pseudogradients(self) -> Iterator[Task]:
        for seed, study in self.studies.items():
            names = self.baselines(seed)
            if names and not (study / TABLE).exists():
                step = f"checkpoint/step-{self.design.size.checkpoint_step}"
                checkpoints = [str(self.runs.folder / name / step) for name in names]
                options = ("--workers", *STUDIED, "--steps", str(SYNC_STEPS), "--out", str(study))
                yield Task(
                    f"pseudogradients of seed {seed}",
                    ("analyze", "pseudogradients", *checkpoints, *options),
                    log=self.folder / "logs" / f"pseudogradients-seed-{seed}.log",
                    is_done=(study / TABLE).exists,
                )
