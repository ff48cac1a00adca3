"""The tasks that are left, given what is done: runs, and the studies of pseudogradients that need them."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from muloco.analysis.pseudogradients.tables import TABLE
from muloco.reproduce.design import SYNC_STEPS, Design, Setting
from muloco.reproduce.runs import Runs
from muloco.reproduce.search import Losses, Trial, best_rate, wanted
from muloco.sweeps.local import Task, training

STUDIED = (2, 4, 8)
"""K of the studies of pseudogradients, beside 1."""


class Queue:
    """The tasks of a design; asked for again and again while they are done."""

    def __init__(self, design: Design, folder: Path):
        self.design, self.folder = design, folder
        self.runs = Runs(design.size, folder / "runs")
        self._losses: dict[Trial, float] = {}

    @property
    def losses(self) -> Losses:
        return self._losses

    def tasks(self) -> list[Task]:
        """Returns the tasks that can be run now, in order: first those for the claims, then those for the studies
        beyond them."""
        trials = self._trials()
        claimed = set(self.design.claimed())
        first = [trial for trial in trials if trial.setting in claimed]
        then = [trial for trial in trials if trial.setting not in claimed]
        return [
            *map(training, self.runs.jobs(first)),
            *self._pseudogradients(),
            *map(training, self.runs.jobs(then)),
        ]

    def studies(self) -> list[Path]:
        """Folders of the studies of pseudogradients, one a seed."""
        return [self.folder / "pseudogradients" / f"seed-{seed}" for seed in self.design.size.seeds]

    def remove_broken_studies(self) -> None:
        """Removes the folders of interrupted studies, which cannot be resumed."""
        for study in self.studies():
            if study.exists() and not (study / TABLE).exists():
                shutil.rmtree(study)

    @property
    def studies_left(self) -> int:
        return sum(not (study / TABLE).exists() for study in self.studies())

    def chosen(self, setting: Setting) -> Mapping[int, float] | None:
        """Losses by seed at the inner learning rate that was found for a setting; None while there is none."""
        if (rate := self.rate(setting)) is None:
            return None
        return {
            trial.seed: loss for trial, loss in self._losses.items() if (trial.setting, trial.lr) == (setting, rate)
        }

    def rate(self, setting: Setting) -> float | None:
        size = self.design.size
        return best_rate(setting, self._losses, seed=size.seeds[0], extensions=size.extensions)

    def baselines(self, seed: int) -> list[str]:
        """Names of the data-parallel runs whose checkpoints are studied; none before they are there."""
        trials = [Trial(one, rate, seed) for one in self.design.baselines if (rate := self.rate(one)) is not None]
        there = [trial for trial in trials if trial in self._losses]
        return [job.name for job in self.runs.jobs(there)] if len(there) == len(self.design.baselines) else []

    def _trials(self) -> list[Trial]:
        size = self.design.size
        while True:
            trials = [
                trial
                for stage in self.design.stages()
                for trial in wanted(stage, self._losses, seeds=size.seeds, extensions=size.extensions)
            ]
            there = self.runs.losses(trials)
            if not there:
                return trials
            self._losses |= there

    def _pseudogradients(self) -> Iterator[Task]:
        size = self.design.size
        for seed, study in zip(size.seeds, self.studies(), strict=True):
            names = self.baselines(seed)
            if names and not (study / TABLE).exists():
                step = f"checkpoint/step-{size.checkpoint_step}"
                yield Task(
                    f"pseudogradients of seed {seed}",
                    (
                        "analyze",
                        "pseudogradients",
                        *(str(self.runs.folder / name / step) for name in names),
                        "--workers",
                        *map(str, STUDIED),
                        "--steps",
                        str(SYNC_STEPS),
                        "--out",
                        str(study),
                    ),
                    log=self.folder / "logs" / f"pseudogradients-seed-{seed}.log",
                    is_done=(study / TABLE).exists,
                )
