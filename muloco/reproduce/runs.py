"""From trials to jobs of a sweep and back: what is set for all runs, and which of them are there."""

from collections.abc import Iterable
from pathlib import Path

from muloco.analysis.records.runs import read_run
from muloco.errors import UserError
from muloco.reproduce.design import FLAVOR, METHODS, WARMUP_SHARE, Size
from muloco.reproduce.search import Losses, Trial
from muloco.sweeps.cluster import ClusterProfile
from muloco.sweeps.expand import Job, expand
from muloco.sweeps.state import other_run
from muloco.sweeps.sweep import Grid, Sweep

LOCAL_BATCH = 16
"""Most sequences in one forward pass."""


class Runs:
    """The runs of a size in a folder."""

    def __init__(self, size: Size, folder: Path):
        self.size, self.folder = size, folder
        self._jobs: dict[Trial, Job] = {}

    def jobs(self, trials: Iterable[Trial]) -> list[Job]:
        """Returns the jobs of some trials, with resolved configs and run folders.

        Raises:
            UserError: there is no such run.
        """
        trials = list(trials)
        new = [trial for trial in trials if trial not in self._jobs]
        if new:  # together: the command line's parser takes long
            grids = [self._grid(trial) for trial in new]
            found = expand(Sweep(*grids), overrides=["--run.outputs", str(self.folder)], profile=ClusterProfile())
            assert not found.merged, found.merged
            if found.refused:
                refused, *others = found.refused
                more = f" (and {len(others)} more runs)" if others else ""
                raise UserError(f"run {refused.name} cannot be made{more}: {refused.reason}")
            self._jobs |= dict(zip(new, found.jobs, strict=True))
        return [self._jobs[trial] for trial in trials]

    def losses(self, trials: Iterable[Trial]) -> Losses:
        """Returns the losses of the trials that have ended.

        Raises:
            UserError: the folder of a trial holds another run.
        """
        trials = list(trials)
        found = {}
        for trial, job in zip(trials, self.jobs(trials), strict=True):
            if (job.run_folder / "summary.json").exists():
                if (reason := other_run(job)) is not None:
                    raise UserError(reason)
                if (run := read_run(job.run_folder)[0]) is not None:
                    found[trial] = run.loss
        return found

    def _grid(self, trial: Trial) -> Grid:
        size, setting = self.size, trial.setting
        point = {
            "model.flavor": FLAVOR,
            "training.seq_len": size.seq_len,
            "training.global_batch_size": setting.batch,
            "training.local_batch_size": min(LOCAL_BATCH, setting.batch // setting.workers),
            "training.steps": size.steps,
            "lr_scheduler.warmup_steps": round(WARMUP_SHARE * size.steps),
            "validation.freq": size.steps // 3,
            "validation.sequences": size.held_out,
            "metrics.log_freq": 10,
            "metrics.tensorboard": False,
            "checkpoint.enable": False,
            **({"fault_tolerance.transport": "in_process"} if setting.workers > 1 else {}),
            **setting.fields,
            "optimizer.lr": trial.lr,
            "run.seed": trial.seed,
        }
        named = ("optimizer.lr", "run.seed")
        return Grid(name=setting.name, config=METHODS[setting.method][0], points=[point], named=named)
