"""The paper's sweeps: its tables, cell by cell, and all its runs, as they were when somebody last looked at them."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from muloco.recipes import base, model_map
from muloco.sweeps.cluster import ClusterProfile
from muloco.sweeps.expand import Expansion, expand
from muloco.sweeps.files import load_sweep
from muloco.sweeps.listing import COLUMNS, row
from muloco.sweeps.script import job_script
from muloco.training.config import Config
from muloco.training.load import CHECKOUT
from muloco.training.resolve import resolve

from ..papers_tables import DECAYS, SIZES, STEPS

JOBS = CHECKOUT / "jobs" / "muloco_paper"
GOLDEN = Path(__file__).parent / "golden"
PROFILE = ClusterProfile(gpus_per_node=8, memory="0", time="24:00:00", log_folder="/sweep/logs")
PUBLISHED = {  # PAPER 4.1: learning rate, weight decay, outer lr and momentum
    "muloco_3.1B_K16_B2048_lr0.015625": (0.015625, 2.5e-4, 1.0, 0.9),
    "diloco_3.1B_K16_B1024_lr0.000691": (0.000691, 1.25e-4, 1.0, 0.9),
    "muloco_416M_K8_B512_lr0.0625": (0.0625, 1.25e-3, 0.9, 0.8),
    "diloco_416M_K8_B512_lr0.003906": (0.003906, 1.25e-3, 0.9, 0.9),
    "dp-muon_15B_B2048_lr0.011049": (0.011049, 4e-4, None, None),
    "dp-muon_3.1B_B8192_lr0.03125": (0.03125, 0.016, None, None),
}
PUBLISHED_15B = {  # PAPER 4.1: steps, weight decay
    "dp-adamw_15B_B1024": (145320, 2e-4),
    "muloco_15B_K1_B8192": (18165, 1.6e-3),
    "diloco_15B_K1_B512": (290640, 1e-4),
    "muloco_15B_K16_B4096": (36330, 5e-5),
    "diloco_15B_K16_B2048": (72660, 2.5e-5),
}
SCRIPTS = (
    *("dp-muon_3.1B_B8192_lr0.03125", "muloco_3.1B_K16_B2048_lr0.015625", "muloco_15B_K16_B4096_lr0.007812"),
    "diloco_416M_K8_B512_lr0.003906_statistical_feedback_bits4",
)


@cache
def whole_paper() -> Expansion:
    return jobs_of("whole_paper.py")


def jobs_of(file: str) -> Expansion:
    return expand(load_sweep(JOBS / file), profile=PROFILE)


@pytest.mark.parametrize("batch", STEPS)
def test_steps_and_weight_decay_follow_from_size_and_batch_as_in_the_papers_tables(batch: int) -> None:
    for index, (size, steps) in enumerate(zip(SIZES, STEPS[batch], strict=True)):
        for optimizer, decays in DECAYS.items():
            for workers in (1, 16):
                config = Config()
                config.model.flavor, config.optimizer.name = size, optimizer
                config.training.global_batch_size, config.training.local_batch_size = batch, 1
                config.fault_tolerance.group_size = workers
                found = resolve(config)
                assert steps is None or found.training.steps == steps
                assert found.optimizer.weight_decay == pytest.approx(decays[index] * batch / workers / 512)


def test_every_method_size_and_number_of_workers_is_there_once_and_none_is_refused() -> None:
    found = whole_paper()
    assert not found.refused and all(theirs == ours for theirs, ours in found.merged)
    names = [job.name for job in found.jobs]
    assert len(set(names)) == len(names)
    main = [
        job.name
        for file in ("ddp_baselines_h100.py", "diloco_muloco_no-compression_h100.py", "15B.py")
        for job in jobs_of(file).jobs
    ]
    for size in SIZES[:-1]:
        for method in ("muloco", "diloco"):
            for workers in (1, 2, 4, 8, 16):
                assert sum(name.startswith(f"{method}_{size}_K{workers}_") for name in main) == 1
        for method in ("dp-muon", "dp-adamw"):
            assert sum(name.startswith(f"{method}_{size}_") for name in main) >= 3
    assert sum("_15B_" in name for name in main) == 6
    assert set(main) <= set(names)


def test_published_hyperparameters_are_taken_as_they_are() -> None:
    jobs = {job.name: job for job in whole_paper().jobs}
    for name, (lr, decay, outer_lr, momentum) in PUBLISHED.items():
        config = jobs[name].resolved
        assert config.optimizer.lr == lr and config.optimizer.weight_decay == pytest.approx(decay)
        if outer_lr is not None:
            assert (config.outer_optimizer.lr, config.outer_optimizer.momentum) == (outer_lr, momentum)
        assert config.lr_scheduler.warmup_steps == 500 and config.validation.sequences == 1024
    for prefix, (steps, decay) in PUBLISHED_15B.items():
        (config,) = (job.resolved for name, job in jobs.items() if name.startswith(prefix))
        assert config.training.steps == steps and config.optimizer.weight_decay == pytest.approx(decay)


def test_every_value_that_is_not_derived_says_where_it_comes_from() -> None:
    for job in whole_paper().jobs:
        chosen = {"optimizer.lr", "training.local_batch_size"}
        if job.resolved.fault_tolerance.semi_sync_method != "none":
            chosen |= {"outer_optimizer.lr", "outer_optimizer.momentum"}
        assert chosen <= set(job.origins)
        kinds = {origin.split(":")[0] for origin in job.origins.values()}
        assert kinds <= {"published", "interpolated", "grid", "rule"}


def test_compressed_runs_are_those_of_the_figures() -> None:
    jobs = [job for job in jobs_of("inner_sweep_distributed_quantized_topk.py").jobs]
    assert len(jobs) == 2 * ((2 * 3 + 8) * 2 + 1)
    for job in jobs:
        config = job.resolved
        assert (config.workers, config.training.global_batch_size, job.nodes) == (8, 512, 1)
        assert config.outer_optimizer.lr == (0.81 if config.compression.error_feedback else 0.9)
        if config.compression.kind == "linear":
            assert config.compression.granularity == "row"
    assert {job.resolved.compression.bits for job in jobs if job.resolved.compression.kind == "statistical"} == {
        2,
        4,
        8,
    }


def test_the_model_map() -> None:
    assert {size: model_map.LOCAL_BATCH[size] for size in base.LOCAL_BATCH} == base.LOCAL_BATCH
    assert all(abs(lr / 2 ** (-k / 2) - 1) < 0.01 for k, lr in enumerate(model_map.LR_GRID))
    # K = 1: from .063 at 150M down to .016 at 3.1B (PAPER 4.2)
    rates = [model_map.best_lr("MuLoCo", size, 1).value for size in SIZES[:-1]]
    assert rates == [0.0625, 0.044194, 0.022097, 0.015625, 0.015625]
    assert model_map.workers_on(nodes=16, per_node=1) == model_map.workers_on(nodes=2, per_node=8) == 16
    assert model_map.workers_on(nodes=4, per_node=1, nodes_per_worker=2) == 2
    for method, (k1, k2, k4, k8) in {"MuLoCo": (0.6, 0.7, 0.7, 0.8), "DiLoCo": (0.8, 0.8, 0.9, 0.9)}.items():
        momenta = [model_map.outer(method, k)["outer_optimizer.momentum"].value for k in (1, 2, 4, 8)]
        assert momenta == [k1, k2, k4, k8]


def test_all_jobs_as_listed() -> None:
    lines = ["\t".join(COLUMNS), *("\t".join(row(job)) for job in whole_paper().jobs)]
    _compare("whole_paper.tsv", "\n".join(lines) + "\n")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts(name: str) -> None:
    (job,) = (job for job in whole_paper().jobs if job.name == name)
    text = job_script(job, PROFILE)
    _compare(f"{name}.sh", text.replace(str(CHECKOUT), "/muloco"))


def test_a_sweep_is_run_by_its_file_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(JOBS / "15B.py"), "--folder", "here", "--run.outputs", str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "here").glob("*_15B_*.sh"))) == 6 and "6 scripts" in done.stdout


def _compare(name: str, text: str) -> None:
    """Against a file under golden/, which UPDATE_GOLDEN=1 in the environment writes: then look at what has changed."""
    golden = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
