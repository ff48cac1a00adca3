"""Every run of the design can be run, and is what its table says."""

from pathlib import Path

import pytest

from muloco.analysis.records.method import variant
from muloco.reproduce.design import FULL, OUTER, QUICK, Design, Size
from muloco.reproduce.hours import START_SECONDS, STEP_SECONDS, planned_seconds
from muloco.reproduce.runs import Runs
from muloco.reproduce.search import Trial


@pytest.mark.parametrize("size", [FULL, QUICK], ids=["full", "quick"])
def test_all_settings_resolve_to_runs_of_the_same_tokens(size: Size, tmp_path: Path) -> None:
    runs = Runs(size, tmp_path)
    settings = Design(size).settings
    jobs = dict(zip(settings, runs.jobs(Trial(setting, 0.01, 2) for setting in settings), strict=True))
    assert len({job.name for job in jobs.values()}) == len(settings)
    for setting, job in jobs.items():
        config = job.resolved
        assert job.name == f"{setting.name}_lr0.01_seed2" and job.run_folder == tmp_path / job.name
        assert config.training.steps * config.tokens_per_step == size.tokens
        assert config.lr_scheduler.warmup_steps == pytest.approx(0.05 * config.training.steps, abs=0.51)
        assert (config.run.seed, config.optimizer.lr) == (2, 0.01)
        assert config.worker_processes == 1


def test_what_is_compared_is_what_it_is_called(tmp_path: Path) -> None:
    design, runs = Design(FULL), Runs(FULL, tmp_path)

    def labels(settings) -> list[str]:
        return [variant(job.resolved).label for job in runs.jobs(Trial(setting, 0.01, 1) for setting in settings)]

    assert labels(design.baselines) == ["DP AdamW", "DP Muon"]
    assert labels(design.by_workers.values()) == [f"{m} K={k}" for k in (1, 2, 4, 8) for m in ("MuLoCo", "DiLoCo")]
    assert labels(design.by_batch) == ["MuLoCo K=1", "DiLoCo K=1"] * 3
    assert labels(design.compressed) == ["MuLoCo K=8, statistical 4 bits", "DiLoCo K=8, statistical 4 bits"]
    assert labels(design.streaming) == ["MuLoCo K=8, J=3", "DiLoCo K=8, J=3"]
    two_bits, feedback, overlap, averaging = (labels(study.rows.values()) for study in design.studies)
    assert two_bits == [
        "MuLoCo K=8",
        "MuLoCo K=8, statistical 2 bits",
        "MuLoCo K=8, statistical 2 bits, error feedback",
        "MuLoCo K=8, lloyd_max 2 bits",
        "MuLoCo K=8, lloyd_max 2 bits, error feedback",
    ]
    assert feedback == [
        "MuLoCo K=8",
        "MuLoCo K=8",
        "MuLoCo K=8, topk 10 %, gathered",
        "MuLoCo K=8, topk 10 %, gathered, error feedback",
        "MuLoCo K=8, topk 10 %, gathered, error feedback",
    ]
    assert overlap == ["MuLoCo K=4", *(f"MuLoCo K=4, tau={t}{a}" for t in (1, 5) for a in ("", ", alpha=0.5"))]
    assert averaging == ["MuLoCo K=1", "DiLoCo K=1", "GPA K=1", "GPA, other roles K=1"]


def test_error_feedback_alone_has_no_outer_momentum(tmp_path: Path) -> None:
    (study,) = [study for study in Design(FULL).studies if study.title.startswith("Error feedback")]
    (job,) = Runs(FULL, tmp_path).jobs([Trial(study.rows["top 10 %, error feedback .95 alone"], 0.01, 1)])
    config = job.resolved
    assert (config.outer_optimizer.lr, config.outer_optimizer.momentum) == (1.0, 0.0)
    assert (config.compression.error_feedback, config.compression.error_decay) == (True, 0.95)


def test_hours_are_those_of_what_is_left() -> None:
    """QUICK: 6 settings with searches of 3 rates, 4 that are like others; 3 seeds. FULL's searches may go on twice."""
    design = Design(QUICK)
    runs, least, most = planned_seconds(design, {}, rate=1e6)
    worker_steps = 150 * (5 * (1 + 1 + 1 + 1 + 4 + 4) + 3 * 4 * 4)
    assert runs == 5 * 6 + 3 * 4 and least == most
    assert least == pytest.approx(runs * (START_SECONDS + QUICK.tokens / 1e6) + worker_steps * STEP_SECONDS)
    losses = {Trial(design.baselines[0], lr, 1): 4.0 for lr in (0.1, 0.2)}
    assert planned_seconds(design, losses, rate=1e6)[0] == runs - 2
    searched = [setting for setting in Design(FULL).settings if setting.like is None]
    _, least, most = planned_seconds(Design(FULL), {}, rate=1e12)
    steps = sum(s.fields.get("training.steps", 300) * s.fields.get("fault_tolerance.group_size", 1) for s in searched)
    assert most - least == pytest.approx(2 * (len(searched) * START_SECONDS + steps * STEP_SECONDS), rel=1e-3)


def test_the_methods_of_the_outer_table_are_those_with_workers() -> None:
    assert set(OUTER) == {"MuLoCo", "DiLoCo"} and all(set(FULL.workers) <= set(by) for by in OUTER.values())
